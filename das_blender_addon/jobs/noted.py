# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes of a scene that are noted on disk while they are made (`take.pending`), and gone on with when a Blender was
closed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..errors import JobCancelled, SettingsError
from ..scene.layers import render_layer
from ..shot.resolved import ResolvedSettings
from ..shot.server_consent import check_server
from ..shot.settings import resolve_settings
from ..shot.shot_folder import take_over_folder
from ..take.drive import Recipe, WithEnd
from ..take.pending import Note, PendingTake
from ..take.recipes import OnReport
from ..take.variations import varied
from . import of_scene

TAKE, VARIATIONS = "take", "variations"


def noted_takes(
    scene,
    kind: str,
    asked: Sequence[ResolvedSettings],
    *,
    found: PendingTake | None = None,
    on_report: OnReport | None = None,
    in_child: bool | None = None,
    make: Callable[..., Recipe] | None = None,
) -> tuple[Recipe, Note]:
    """(the recipe of the takes ``asked``, all of the scene as it is now; their note, which is over with it).

    ``kind`` `TAKE` returns the `Take`, any other one [`Variation`].  ``found``: the note of earlier ones that are gone
    on with.  ``make(settings, hear)``: the recipe of another kind.
    """
    check_server(scene, asked[0].server)
    folder = take_over_folder(scene, asked[0].cache_folder, render_layer(scene).name)
    note = Note(folder, kind, scene.name, asked, found)
    settings = note.settings if found is None else _resumed(note.settings, found)
    try:
        if kind == TAKE:
            hear = partial(note.hear, 0)
            recipe = of_scene.only_take(scene, settings[0], on_report=on_report, on_event=hear, in_child=in_child)
        elif make is not None:
            recipe = make(settings, note.hear)
        else:
            recipe = all_of(scene, settings, on_report, note.hear, in_child)
    except BaseException as error:
        note.over(error if found is not None else JobCancelled("It was not begun."))
        raise
    return note.following(recipe), note


def found_takes(scene, found: PendingTake, **how) -> tuple[Recipe, Note]:
    """`noted_takes` that go on where ``found`` was left, with its settings; the cache is the one that it lies in.

    Raises `SettingsError` where it was begun at another server than the scene's: a note may be a stranger's.
    """
    now = resolve_settings(scene)
    server = found.settings[0].server
    if server != now.server:
        raise SettingsError(
            f"The take was begun at the server {server}, and the scene's is {now.server}: choose {server} as its "
            "Server, or forget the take.",
            field="server",
        )
    asked = [replace(one, cache_folder=now.cache_folder) for one in found.settings]
    return noted_takes(scene, found.kind, asked, found=found, **how)


def _resumed(settings: Sequence[ResolvedSettings], found: PendingTake) -> tuple[ResolvedSettings, ...]:
    return tuple(
        replace(one, resumes=known.resumes) for one, known in zip(settings, found.resumed(), strict=True)
    )


def all_of(
    scene, settings: Sequence[ResolvedSettings], on_report: OnReport | None = None, hear=None, in_child=None
) -> Recipe:
    """The takes of ``settings``, see `of_scene.several_takes`; returns [`Variation`]."""
    takes = of_scene.several_takes(scene, settings, on_report=on_report, on_event=hear, in_child=in_child)
    waiting = iter(takes)

    def close(_error) -> None:
        for one in takes:
            one.close()

    return WithEnd(varied(settings, lambda _one: next(waiting)), close)
