# SPDX-License-Identifier: GPL-3.0-or-later
"""Buttons of the report that mend what a finding is about, where a choice of its objects does (`Object.das`)."""

from __future__ import annotations

import bpy

from ..take.last_reports import last_report
from .words import said

TRACKED_AGAIN = ("tracking", "TRACK", "Track")
CHOICES = {
    "scene.glass": ("transmission", "BEHIND", "Track What Is Behind"),
    "scene.see_through": ("transmission", "SURFACE", "Track the Surface"),
    "scene.ignored": TRACKED_AGAIN,
    "scene.silhouette": TRACKED_AGAIN,
    "scene.background": TRACKED_AGAIN,
}
"""The code of a finding → the choice of its objects that mends it, its value, and the words on the button."""


class DAS_OT_mend_finding(bpy.types.Operator):
    bl_idname = "das.mend_finding"
    bl_label = "Choose"
    bl_description = "Choose that for the object; the report tells it when the shot is checked again"
    bl_options = {"REGISTER", "UNDO"}
    index: bpy.props.IntProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        report = last_report(context.scene)
        finding = report.findings[self.index] if report and 0 <= self.index < len(report.findings) else None
        if finding is None or finding.code not in CHOICES:
            return {"CANCELLED"}
        found, own = mendable(finding), objects_of(finding)
        for shape in found:
            name, value, _ = CHOICES[finding.code]
            setattr(shape.das, name, value)
        if found:
            return {"FINISHED"}
        names = ", ".join(finding.objects)
        if any(shape.library is not None for shape in own):
            self.report({"WARNING"}, said("{names} is linked: choose it in its file, or make it local", names=names))
        else:
            words = "{names} has no such choice of its own: look at its collections, and check the shot again"
            self.report({"WARNING"}, said(words, names=names))
        return {"CANCELLED"}


def objects_of(finding) -> list:
    """The objects of the open file that ``finding`` is about; its own before linked ones of the same name."""
    wanted = set(finding.objects)
    found = [shape for shape in bpy.data.objects if shape.name in wanted or shape.name_full in wanted]
    own = [shape for shape in found if shape.library is None]
    return own or found


def mendable(finding) -> list:
    """The objects for which the choice that mends ``finding`` can still be made."""
    if finding.code not in CHOICES:
        return []
    name, value, _ = CHOICES[finding.code]
    return [shape for shape in objects_of(finding) if shape.library is None and getattr(shape.das, name) != value]
