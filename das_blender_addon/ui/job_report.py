# SPDX-License-Identifier: GPL-3.0-or-later
"""What a window shows of its job outside of the panel: a bar in the status bar while it runs, a report at its end."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, StringProperty

from ..errors import DasError, JobCancelled
from . import session
from .words import register_classes, said, translated, unregister_classes

SOON_S = 0.01
WIDTH = 18
"""Of the job in the status bar, in Blender's units, about a letter and a half each."""


class DAS_OT_report(bpy.types.Operator):
    """Reports in Blender's own way.  An operator that a script calls only prints its reports; one that an event of a
    window calls shows them, so it waits for one.
    """

    bl_idname = "das.report"
    bl_label = "Diffusion as Shader"
    bl_options = {"INTERNAL"}

    kind: EnumProperty(items=(("INFO", "Info", "", 0), ("ERROR", "Error", "", 1)), options={"SKIP_SAVE"})
    words: StringProperty(options={"SKIP_SAVE"})

    def invoke(self, context, _event):
        """Report at the next event of the window."""
        self._timer = context.window_manager.event_timer_add(SOON_S, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        """One look at the next event."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        self.report({self.kind}, self.words)
        return {"FINISHED", "PASS_THROUGH"}


def report_end(name: str, words: str, error: BaseException | None) -> None:
    """The window's job ``name`` is over: tell the user, wherever they look.  Nothing where there is no window."""
    windows = bpy.context.window_manager.windows
    if bpy.app.background or not windows:
        return
    kind = "INFO" if error is None or isinstance(error, JobCancelled) else "ERROR"
    with bpy.context.temp_override(window=windows[0]):
        bpy.ops.das.report("INVOKE_DEFAULT", kind=kind, words=end_in_words(name, words, error))


def end_in_words(name: str, words: str, error: BaseException | None) -> str:
    """The sentence that is reported."""
    if error is None:
        return said("{name}: {words}", name=translated(name), words=words)
    known = error.message if isinstance(error, DasError) else f"{type(error).__name__}: {error}"
    return said("{name}: {words}", name=translated(name), words=known)


# ── The status bar ──────────────────────────────────────────────────────────────────────────────────────────────────


def draw_status(header, context) -> None:
    """The running job with how far it is, beside what Blender's own jobs show there."""
    job = session.running_job()
    if job is None:
        return
    shown = context.window_manager.das
    words = shown.job_line if shown.job_state == "RUNNING" else shown.server_line
    row = header.layout.row(align=True)
    row.ui_units_x = WIDTH
    row.progress(factor=shown.progress, text=words or job.name)
    row.operator("das.cancel", text="", icon="CANCEL")


def redraw_status() -> None:
    """Let the status bars show what is new.  They belong to no screen, but they redraw when a view layer changes."""
    bpy.msgbus.publish_rna(key=(bpy.types.Window, "view_layer"))


def register():
    """Register the operator, and draw in the status bar."""
    register_classes([DAS_OT_report])
    bpy.types.STATUSBAR_HT_header.append(draw_status)


def unregister():
    """Undo `register`."""
    bpy.types.STATUSBAR_HT_header.remove(draw_status)
    unregister_classes([DAS_OT_report])
