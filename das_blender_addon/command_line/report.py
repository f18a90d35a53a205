# SPDX-License-Identifier: GPL-3.0-or-later
"""``das report``: does a take follow its animation?"""

from __future__ import annotations

from ..errors import SettingsError
from ..jobs.measuring import measured_take, worst_window_again
from ..shot.settings import resolve_settings
from ..shot.shot_folder import check_cache, shot_folder
from ..take import drive
from ..take.adherence import heat_maps, read_report
from ..take.adherence_words import table_of
from ..take.library import find_entry, takes_of
from .voice import Voice


def report(scene, arguments, voice: Voice, should_stop) -> int:
    """Say how far a take is from what exact tracking predicts, and how much it flickers; measured on the server first
    where nobody has done that.
    """
    settings = resolve_settings(scene)
    folder = shot_folder(scene, settings.cache_folder)
    check_cache(settings.cache_folder, folder)
    names = arguments.takes or ["last"]
    if len(names) != 1:
        raise SettingsError(f"das report is about one take, and {len(names)} are named.", field="take")
    entry = find_entry(takes_of(folder), names[0])
    if arguments.reroll:
        recipe = worst_window_again(scene, entry, settings)
        take, window, seed = drive.finish(recipe, on_status=voice.status, should_stop=should_stop)
        said = read_report(take.folder)
        words = f"take {take.key[:8]}: the window {window} with the seed {seed}\n"
        rerolled = {"of": entry.key, "window": window, "seed": seed}
    else:
        recipe = measured_take(scene, entry, settings)
        said = drive.finish(recipe, on_status=voice.status, should_stop=should_stop)
        take, words, rerolled = entry.take, f"take {entry.key[:8]}\n", None
    maps = heat_maps(take.folder, len(take.frames))
    voice.result(
        words + table_of(said), key=take.key, folder=take.folder, adherence=said, heat_maps=maps, rerolled=rerolled
    )
    return 0
