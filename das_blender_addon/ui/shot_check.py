# SPDX-License-Identifier: GPL-3.0-or-later
"""*Check Shot*: all that is to be known of a shot before it costs time on a GPU, in a panel of its own."""

from __future__ import annotations

import bpy

from ..jobs import of_scene
from ..shot.findings import ERROR, WARNING
from ..shot.settings import resolve_settings
from ..take.last_reports import keep_report, last_report
from .drawing import say, thumbnail
from .job_operators import JobOperator, redraw
from .last_check import forget_reports, last_plot, words_of_report
from .mending import CHOICES, DAS_OT_mend_finding, mendable
from .panel import RenderPanel
from .words import register_classes, said, unregister_classes

PLOT_SCALE, MOST_OBJECTS = 5.0, 8
ICONS = {ERROR: "CANCEL", WARNING: "ERROR"}
REMEDIES = {
    "scene.colours": ("das.keep_look", "COLOR"),
    "shot.new": ("das.suggest_key_pictures", "LIGHT"),
}
"""The code of a finding → the operator that helps, and its icon."""


class DAS_OT_check_shot(JobOperator, bpy.types.Operator):
    bl_idname = "das.check_shot"
    bl_label = "Check Shot"
    bl_description = (
        "Look at the whole shot, small, and list everything that is to be known of it before it costs time on a GPU; "
        "needs no server"
    )

    def make_recipe(self, scene):
        return of_scene.checked_shot(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, report):
        keep_report(scene, report)
        redraw()

    @classmethod
    def words(cls, report):
        return words_of_report(report) or said("Nothing speaks against the shot")


class DAS_OT_go_to_finding(bpy.types.Operator):
    bl_idname = "das.go_to_finding"
    bl_label = "Show"
    bl_description = "Select what it is about, and go to its frame"
    bl_options = {"REGISTER", "UNDO"}
    index: bpy.props.IntProperty(options={"HIDDEN", "SKIP_SAVE"})

    def execute(self, context):
        report = last_report(context.scene)
        if report is None or not 0 <= self.index < len(report.findings):
            return {"CANCELLED"}
        finding = report.findings[self.index]
        if finding.frame is not None:
            context.scene.frame_set(finding.frame)
        here, wanted = context.view_layer.objects, set(finding.objects)
        shapes = [shape for shape in here if shape.name_full in wanted or shape.name in wanted]
        if shapes:
            for other in context.selected_objects:
                other.select_set(False)
            for shape in shapes:
                shape.select_set(True)
            here.active = shapes[0]
        elif finding.objects:
            self.report({"WARNING"}, said("None of these objects is in this view layer"))
        return {"FINISHED"}


class DAS_PT_shot_check(RenderPanel, bpy.types.Panel):
    """What *Check Shot* found."""

    bl_label = "Shot Check"
    bl_order = 5
    bl_parent_id = "DAS_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.operator("das.check_shot", icon="VIEWZOOM")
        report = last_report(context.scene)
        if report is None:
            return
        if not report.findings:
            say(layout, "Nothing to say", "CHECKMARK")
        for index, finding in enumerate(report.findings):
            _draw_finding(layout, index, finding)
        plot = last_plot(context.scene)
        icon = thumbnail(plot) if plot is not None else None
        if icon is not None:
            layout.template_icon(icon_value=icon, scale=PLOT_SCALE)
            say(layout, "Share of each frame that is tracked in grey, that no key picture shows in orange")


def _draw_finding(layout, index: int, finding) -> None:
    box = layout.box().column(align=True)
    box.alert = finding.level == ERROR
    say(box, finding.words, ICONS.get(finding.level, "INFO"))
    if finding.objects:
        more = len(finding.objects) - MOST_OBJECTS
        names = ", ".join(finding.objects[:MOST_OBJECTS])
        say(box, said("{names} and {count} more", names=names, count=more) if more > 0 else names, "OBJECT_DATA")
    if finding.remedy:
        say(box, finding.remedy)
    row = box.row(align=True)
    if finding.objects or finding.frame is not None:
        row.operator("das.go_to_finding", icon="RESTRICT_SELECT_OFF").index = index
    if finding.code in REMEDIES:
        operator, icon = REMEDIES[finding.code]
        row.operator(operator, icon=icon)
    if mendable(finding):
        row.operator("das.mend_finding", text=said(CHOICES[finding.code][2]), icon="CHECKMARK").index = index


CLASSES = (DAS_OT_check_shot, DAS_OT_go_to_finding, DAS_OT_mend_finding, DAS_PT_shot_check)


def register():
    """Register buttons and panel."""
    register_classes(CLASSES)
    bpy.app.handlers.load_post.append(forget_reports)


def unregister():
    """Undo `register`."""
    forget_reports()
    bpy.app.handlers.load_post.remove(forget_reports)
    unregister_classes(CLASSES)
