# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes of the scene that is shown, as the panel and the viewport know them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path

import bpy

from ..errors import DasError
from ..scene.layers import render_layer
from ..shot.settings import resolve_settings
from ..shot.shot_folder import shot_folder
from ..take import recent
from ..take.cache import Take
from ..take.cleaning import remove_gone
from ..take.library import TakeEntry, put_away, takes_of
from .job_operators import redraw

FRESH_S = 2.0
"""Seconds for which a list is shown before a thread looks again."""


class Shelf:
    """The takes of one folder as they were when a thread last looked: a cache on a network may take a while."""

    def __init__(self):
        self.folder: Path | None = None
        self.entries: list[TakeEntry] = []
        self._at = 0.0
        self._made: Take | None = None
        self.wanted = ""  # the key of the take that is to be chosen, once it is in the list
        self._thread: threading.Thread | None = None

    def look(self, scene) -> list[TakeEntry]:
        """What is known now; a thread looks where that is old or of another folder."""
        try:
            folder = shot_folder(scene, resolve_settings(scene).cache_folder, render_layer(scene).name)
        except DasError:  # told elsewhere
            return []
        if folder != self.folder:
            self.folder, self.entries, self._at = folder, [], 0.0
        made = recent.last_take(scene)
        if made is not self._made:  # one has just been made, and is what its maker wants to see
            self._made, self._at, self.wanted = made, 0.0, "" if made is None else made.key
        if time.monotonic() - self._at > FRESH_S and (self._thread is None or not self._thread.is_alive()):
            self._at = time.monotonic()
            self._thread = threading.Thread(target=self._work, args=(folder,), name="das takes", daemon=True)
            self._thread.start()
            if bpy.app.background:
                self._thread.join()
            elif not bpy.app.timers.is_registered(self._wait):
                bpy.app.timers.register(self._wait, first_interval=0.1)
        return self.entries

    def forget(self) -> None:
        """Look again at the next time."""
        self._at = 0.0

    def _work(self, folder: Path) -> None:
        entries = takes_of(folder)
        if folder == self.folder:
            self.entries = entries

    def _wait(self) -> float | None:
        if self._thread is not None and self._thread.is_alive():
            return 0.1
        bring_list(bpy.context.window_manager, self.entries)
        return None


shelf = Shelf()


def bring_list(manager, entries: list[TakeEntry]) -> None:
    """Let the list of the panel have ``entries``; the chosen one stays chosen."""
    lines, keys = manager.das_takes, [entry.key for entry in entries]
    wanted, is_wanted = shelf.wanted, shelf.wanted in keys
    if [line.name for line in lines] == keys and not is_wanted:
        return
    active = wanted if is_wanted else chosen_key(manager)
    lines.clear()
    for key in keys:
        lines.add().name = key
    manager.das_take_index = keys.index(active) if active in keys else 0
    if is_wanted:
        shelf.wanted = ""
    redraw()


def chosen_key(manager) -> str:
    """The key of the chosen line, "" where there is none."""
    lines, index = manager.das_takes, manager.das_take_index
    return lines[index].name if 0 <= index < len(lines) else ""


def chosen_take(context) -> TakeEntry | None:
    """The take that is chosen in the list; the newest where none is."""
    entries = shelf.look(context.scene)
    if bpy.app.background:
        bring_list(context.window_manager, entries)
    key = chosen_key(context.window_manager)
    return next((entry for entry in entries if entry.key == key), entries[0] if entries else None)


def throw_away(entries: list[TakeEntry]) -> int:
    """Take ``entries`` out of the list at once and let a thread remove their many files; returns their bytes."""
    gone = [entry for entry in entries if put_away(entry) is not None]
    remove_later({entry.take.folder.parent for entry in gone})
    return sum(entry.size_bytes for entry in gone)


def remove_later(folders: Collection[Path]) -> None:
    """Let a thread remove what was put aside in the ``folders`` of takes; without a window, do it now."""

    def work() -> None:
        for folder in folders:
            remove_gone(folder)

    removing = threading.Thread(target=work, name="das remove")
    removing.start()
    if bpy.app.background:
        removing.join()
