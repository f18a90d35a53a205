# SPDX-License-Identifier: GPL-3.0-or-later
"""The caches in the preferences: how large they are, and *Clean Up*, which says what it would delete before it does."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import bpy
from bpy.props import BoolProperty

from .. import compat
from ..errors import DasError
from ..scene.sequencer import TAKE_PROPERTY
from ..scene.strip_pair import PAIR_PROPERTY
from ..shot import machine
from ..shot.settings import resolve_settings
from ..take import cleaning, recent
from . import session
from .drawing import say
from .job_operators import redraw
from .take_shelf import remove_later
from .words import register_classes, said, unregister_classes

FRESH_S = 60.0
"""Seconds for which a size that was measured is shown before it is measured again."""
SHOTS_SHOWN = 12
DIALOG_PX = 520


class _Measured:
    """The caches as they were when a thread last looked; a large one on a network takes a while."""

    def __init__(self):
        self.asked: tuple = ()
        self.pieces: list[cleaning.Piece] | None = None
        self._at = 0.0
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Let a thread look where what is known is old, or of other caches."""
        asked = (tuple(caches()), frozenset(used_takes()))
        is_fresh = asked == self.asked and time.monotonic() - self._at < FRESH_S
        if is_fresh or (self._thread is not None and self._thread.is_alive()):
            return
        self.asked, self._at = asked, time.monotonic()
        self._thread = threading.Thread(target=self._work, args=asked, name="das cache", daemon=True)
        self._thread.start()
        if not bpy.app.background:
            bpy.app.timers.register(self._wait, first_interval=0.2)

    def known(self) -> list[cleaning.Piece]:
        """What a thread has found of the caches as they are chosen now, at most `FRESH_S` ago; else it is looked for
        now.
        """
        asked = (tuple(caches()), frozenset(used_takes()))
        is_fresh = asked == self.asked and time.monotonic() - self._at < FRESH_S
        if self.pieces is None or not is_fresh or (self._thread is not None and self._thread.is_alive()):
            self.pieces, self.asked, self._at = cleaning.pieces_of(*asked), asked, time.monotonic()
        return self.pieces

    def forget(self) -> None:
        """Look again at the next time."""
        self._at = -FRESH_S

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, chosen, used) -> None:
        self.pieces = cleaning.pieces_of(chosen, used)

    def _wait(self) -> float | None:
        if self._thread.is_alive():
            return 0.2
        redraw()
        return None


measured = _Measured()


def caches() -> list[Path]:
    """The folders in which this user's first frames and takes are, as far as the open file tells."""
    found = []
    try:
        found.append(resolve_settings(bpy.context.scene).cache_folder)
    except DasError:  # told elsewhere
        pass
    chosen = machine.machine_settings().cache_folder
    if chosen:
        found.append(Path(bpy.path.abspath(chosen)))
    found.append(machine.user_folder("das_cache"))
    return list(dict.fromkeys(found))


def used_takes() -> set[str]:
    """The takes that are on a strip of the open file."""
    strips = (strip for scene in bpy.data.scenes for strip in compat.all_strips(scene))
    return {str(strip[name]) for strip in strips for name in (TAKE_PROPERTY, PAIR_PROPERTY) if name in strip.keys()}


class DAS_OT_clean_up(bpy.types.Operator):
    bl_idname = "das.clean_up"
    bl_label = "Clean Up"
    bl_description = "Delete what can be made again from the caches; says what before it does. Painted pictures stay"
    bl_options = {"REGISTER"}

    takes: BoolProperty(
        name="Takes", description="Delete takes that have no star and are on no strip of this file", default=True
    )
    previews: BoolProperty(name="Tracking Previews", description="Delete the videos of Preview Tracking", default=True)
    first_frames: BoolProperty(
        name="Rendered First Frames", description="Delete first frames that nobody painted over", default=True
    )

    @classmethod
    def poll(cls, context):
        if session.running_job() is not None:
            cls.poll_message_set(said("{job} is running: wait for it, or cancel it", job=session.running_job().name))
            return False
        return True

    def invoke(self, context, _event):
        """Look at the caches and ask."""
        if bpy.app.background:
            return self.execute(context)
        self._pieces = measured.known()
        if not cleaning.total_bytes(self._pieces, *cleaning.DISPOSABLE):
            self.report({"INFO"}, said("There is nothing to clean up"))
            return {"CANCELLED"}
        return context.window_manager.invoke_props_dialog(
            self, width=DIALOG_PX, title=said("Clean Up the Caches"), confirm_text=said("Delete")
        )

    def draw(self, _context):
        """What would be deleted, and what would not."""
        layout = self.layout
        for name, kind in (
            ("takes", cleaning.TAKES),
            ("previews", cleaning.PREVIEWS),
            ("first_frames", cleaning.FIRST_FRAMES),
        ):
            row = layout.row()
            row.prop(self, name)
            row.label(text=cleaning.size_in_words(cleaning.total_bytes(self._pieces, kind)))
        chosen = self._chosen(self._pieces)
        lines = [line_of_shot(shot, counts) for shot, counts in cleaning.by_shot(chosen)]
        box = layout.box().column(align=True)
        for line in lines[:SHOTS_SHOWN]:
            box.label(text=line)
        if len(lines) > SHOTS_SHOWN:
            box.label(text=said("and {count} more shots", count=len(lines) - SHOTS_SHOWN))
        if not lines:
            box.label(text=said("Nothing"))
        stays = said("Painted pictures stay, starred takes, and takes that are on a strip of this file.")
        layout.label(text=stays, icon="INFO")
        layout.label(text=said("Strips of other files lose the takes that are deleted."), icon="ERROR")

    def execute(self, context):
        """Delete."""
        pieces = self._chosen(measured.known())
        freed, refused = cleaning.throw_away(pieces, remove_later)
        if self.takes:
            recent.forget_takes()
        measured.forget()
        redraw()
        for words in refused:
            self.report({"WARNING"}, words)
        self.report({"INFO"}, said("{size} freed", size=cleaning.size_in_words(freed)))
        return {"FINISHED"}

    def _chosen(self, pieces) -> list[cleaning.Piece]:
        wanted = {
            cleaning.TAKES: self.takes,
            cleaning.PREVIEWS: self.previews,
            cleaning.FIRST_FRAMES: self.first_frames,
        }
        return [piece for piece in pieces if wanted.get(piece.kind, False)]


_COUNTS = {
    cleaning.TAKES: ("{count} take ({size})", "{count} takes ({size})"),
    cleaning.PREVIEWS: ("{count} tracking preview ({size})", "{count} tracking previews ({size})"),
    cleaning.FIRST_FRAMES: ("{count} rendered first frame ({size})", "{count} rendered first frames ({size})"),
}
"""What one and what several of a kind are called."""


def line_of_shot(shot: str, counts: dict[str, tuple[int, int]]) -> str:
    """What of a shot would be deleted.  ``counts``: of `cleaning.by_shot`."""
    parts = [
        said(_COUNTS[kind][count > 1], count=count, size=cleaning.size_in_words(size))
        for kind, (count, size) in counts.items()
    ]
    return said("{shot}: {parts}", shot=shot, parts=", ".join(parts))


def draw_caches(layout) -> None:
    """The sizes, and the button."""
    measured.look()
    box = layout.box()
    box.label(text=said("Caches"))
    for cache in measured.asked[0]:
        box.label(text=str(cache), icon="FILE_FOLDER", translate=False)
    if measured.pieces is None:
        say(box, "Measuring", "SORTTIME")
        return
    sizes = ", ".join(
        said("{kind} {size}", kind=said(kind), size=cleaning.size_in_words(cleaning.total_bytes(measured.pieces, kind)))
        for kind in (*cleaning.DISPOSABLE, cleaning.KEPT)
    )
    row = box.row()
    total = cleaning.size_in_words(cleaning.total_bytes(measured.pieces))
    row.label(text=said("{total}: {sizes}", total=total, sizes=sizes))
    row.operator("das.clean_up", icon="TRASH")


def register():
    """Register the operator."""
    register_classes([DAS_OT_clean_up])


def unregister():
    """Undo `register`."""
    unregister_classes([DAS_OT_clean_up])
