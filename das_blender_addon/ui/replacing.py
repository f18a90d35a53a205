# SPDX-License-Identifier: GPL-3.0-or-later
"""A painted picture is replaced by a button of a window only once its user has said so; it is kept in any case."""

from __future__ import annotations

import bpy

from .words import said, translated


def asked_to_replace(operator, context, event, painted: str, confirm_text: str) -> set[str]:
    """Ask whether ``painted``, a file's name, may be replaced: then Blender calls the ``operator``'s ``execute``."""
    return context.window_manager.invoke_confirm(
        operator,
        event,
        title=said("Replace the painted picture?"),
        message=said("{file} is kept beside the new one, under a numbered name", file=painted),
        confirm_text=confirm_text,
    )


class ReplacingJob:
    """Beside `job_operators.JobOperator`, before it: the job replaces a picture, which may be a painted one."""

    confirmed: bpy.props.BoolProperty(options={"HIDDEN", "SKIP_SAVE"})
    confirm_text = "Render"

    def replaced_picture(self, scene) -> str:
        """The name of the painted picture that the job puts aside, "" for none."""
        raise NotImplementedError

    def invoke(self, context, event):
        """Ask before a painted one is replaced, in a window."""
        painted = "" if bpy.app.background else self.replaced_picture(context.scene)
        if not painted:
            return super().invoke(context, event)
        self.confirmed = True
        return asked_to_replace(self, context, event, painted, translated(self.confirm_text))

    def execute(self, context):
        """In the background and for scripts; in a window once it is confirmed."""
        if self.confirmed and not bpy.app.background:
            return super().invoke(context, None)
        return super().execute(context)
