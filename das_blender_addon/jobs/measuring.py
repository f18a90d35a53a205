# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a take follow its animation?  For the commands, the buttons and scripts: takes of a scene that are measured,
ranked, and made anew in part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bpy

from ..shot.resolved import ResolvedSettings
from ..shot.settings import resolve_settings
from ..shot.shot_folder import shot_folder
from ..take import recipes
from ..take.adherence import read_report
from ..take.again import window_again
from ..take.cache import Take, TakeSettings
from ..take.drive import Recipe, WithEnd, finish
from ..take.library import TakeEntry, find_entry, takes_of
from ..take.source import Source
from ..take.variations import combinations
from . import of_scene
from .as_made import settings_as_made
from .noted import all_of
from .sources import SharedSource, source_of


def measured_take(scene, entry: TakeEntry, settings: ResolvedSettings, *, server_named: bool = False) -> Recipe:
    """The take ``entry`` of ``scene`` measured; returns its report (`take.adherence.measure`).

    Raises `SettingsError` where the scene would not make it any more, `ModelError` where the server cannot measure.
    """
    report = entry.adherence
    if report is None:
        take = yield from of_scene.measured(
            scene, settings_as_made(scene, entry, settings), entry.key, server_named=server_named
        )
        report = read_report(take.folder)
    return report


def best_of(
    scene, settings: ResolvedSettings, seeds: tuple[int, ...], *, in_child: bool | None = None
) -> Recipe:
    """The shot once for each of the ``seeds``, all of the scene as it is now, measured; returns [`Variation`], see
    `take.variations.ranked`.
    """
    return all_of(scene, combinations(replace(settings, measure=True), seeds), in_child=in_child)


def worst_window_again(
    scene, entry: TakeEntry, settings: ResolvedSettings, seed: int | None = None, *, in_child: bool | None = None
) -> Recipe:
    """The take ``entry`` with another ``seed`` (None: any) for its worst window, a take of its own, measured; returns
    (`Take`, the window's number from 1 on, the seed).  The other windows' frames are those that are there.

    Both are of the scene as it is now.  Raises `SettingsError` (see `window_again`), and where the scene would not make
    the take any more.
    """
    made_with = settings_as_made(scene, entry, settings)
    if entry.adherence is not None:
        window_again(made_with, entry.adherence, seed)
    facts, made_with = of_scene.prepared(scene, made_with)
    shared = SharedSource(source_of(scene, facts.view_layer, in_child=in_child, camera=made_with.camera), 2)
    first, again = shared.share(), shared.share()
    after = entry.key, TakeSettings.from_resolved(made_with)

    def measured(asked: ResolvedSettings, source: Source) -> Recipe:
        asked = replace(asked, measure=True, part=None)
        return recipes.only_take(recipes.take(facts, asked, source, after=after))

    def steps() -> Recipe:
        report = entry.adherence
        if report is None:
            take = yield from measured(made_with, first)
            report = read_report(take.folder)
        asked, number, chosen = window_again(made_with, report, seed)
        take = yield from measured(asked, again)
        return take, number, chosen

    return WithEnd(steps(), lambda _error: shared.close())


def adherence(
    scene,
    take: Take | str = "last",
    *,
    server: str | None = None,
    folder: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict:
    """Whether ``take`` follows the animation of ``scene``, as its report says, measured first where there is none;
    blocks.  `take.adherence.measure` lists what the report says.

    ``take``: a `Take`, or as the commands name it: a number of the list from 1 on, the first digits of its key, "last".
    ``server``: its address.  ``folder``: the cache.

    Raises `SettingsError` (no such take, or the scene would not make it any more), `ModelError` where the server cannot
    measure (it says what to install), any `TransportError`, `JobCancelled`.
    """
    settings = resolve_settings(scene)
    if server:
        settings = replace(settings, server=server)
    if folder is not None:
        settings = replace(settings, cache_folder=Path(bpy.path.abspath(str(folder))).resolve())
    entries = takes_of(shot_folder(scene, settings.cache_folder))
    entry = find_entry(entries, take if isinstance(take, str) else take.key)
    recipe = measured_take(scene, entry, settings, server_named=server is not None)
    return finish(recipe, should_stop=should_stop)
