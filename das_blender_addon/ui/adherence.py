# SPDX-License-Identifier: GPL-3.0-or-later
"""*Does It Follow?*: how far the chosen take is from its animation, as a curve and by object, and what can be done."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import IntProperty

from ..errors import SettingsError
from ..jobs.measuring import best_of, measured_take, worst_window_again
from ..scene.colours import read_as_srgb
from ..shot.settings import resolve_settings
from ..take import recent
from ..take.adherence import heat_maps, read_report
from ..take.variations import MOST, ranked, seeds_from
from .drawing import say, thumbnail
from .images import load_sequence, show_image
from .job_operators import DAS_OT_render_take, JobOperator
from .key_plot import keep_picture, plot
from .panel import RenderPanel
from .take_shelf import chosen_take, shelf
from .words import register_classes, said, unregister_classes

PLOT_SCALE, MOST_OBJECTS = 5.0, 6
NO_TAKE = "The shot has no take yet: use Render Take"

_plots: dict[str, Path | None] = {}
"""A take and its figures → the picture of its curve in this session."""


class _OfTake(JobOperator):
    """A job about the chosen take, which a server does."""

    @classmethod
    def why_not(cls, context):
        return NO_TAKE if chosen_take(context) is None else DAS_OT_render_take.why_not(context)


class DAS_OT_measure_take(_OfTake, bpy.types.Operator):
    bl_idname = "das.measure_take"
    bl_label = "Measure"
    bl_description = (
        "Let the server measure how far the model's frames of the chosen take are from where exact tracking has them"
    )

    def make_recipe(self, scene):
        return measured_take(scene, chosen_take(bpy.context), resolve_settings(scene))

    @classmethod
    def finished(cls, scene, report):
        """It lies beside the take, where the panel finds it."""

    @classmethod
    def words(cls, report):
        return short_words(report)


class DAS_OT_best_of(JobOperator, bpy.types.Operator):
    bl_idname = "das.best_of"
    bl_label = "Best of…"
    bl_description = (
        "Render the shot with several seeds, measure each take, and choose the one that follows its animation best and "
        "flickers least; the others stay in the list"
    )
    count: IntProperty(name="Seeds", description="How many, from the scene's on", default=4, min=2, max=MOST)

    @classmethod
    def why_not(cls, context):
        return DAS_OT_render_take.why_not(context)

    def invoke(self, context, _event):
        """Ask how many."""
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context):
        """In a window a timer drives it from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        return best_of(scene, settings, seeds_from(settings.seed, self.count))

    @classmethod
    def finished(cls, scene, made):
        recent.remember_take(scene, ranked(made)[0].take)
        shelf.forget()

    @classmethod
    def words(cls, made):
        best = ranked(made)[0]
        report = read_report(best.take.folder)
        return said("Best: seed {seed}, {words}", seed=best.settings.seed, words=short_words(report))


class DAS_OT_reroll_worst_window(_OfTake, bpy.types.Operator):
    bl_idname = "das.reroll_worst_window"
    bl_label = "Re-roll Worst Window"
    bl_description = (
        "Make a take with another seed for the window of the chosen take that follows worst; the frames of the other "
        "windows are taken over as they are"
    )

    def make_recipe(self, scene):
        return worst_window_again(scene, chosen_take(bpy.context), resolve_settings(scene))

    @classmethod
    def finished(cls, scene, made):
        recent.remember_take(scene, made[0])
        shelf.forget()

    @classmethod
    def words(cls, made):
        take, number, seed = made
        words = short_words(read_report(take.folder))
        return said("Window {number} with the seed {seed}: {words}", number=number, seed=seed, words=words)


class DAS_OT_open_heat_maps(bpy.types.Operator):
    bl_idname = "das.open_heat_maps"
    bl_label = "Heat Map"
    bl_description = (
        "Show where the frames of the chosen take are off, in an Image Editor in step with the timeline: blue where "
        "they follow, yellow as far as they may be, red farther away, purple where nothing is found again"
    )
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        entry = chosen_take(context)
        if entry is None or entry.adherence is None:
            cls.poll_message_set(said(NO_TAKE if entry is None else "The chosen take was not measured: use Measure"))
            return False
        return True

    def execute(self, context):
        entry = chosen_take(context)
        numbers = entry.take.frame_numbers
        files = heat_maps(entry.take.folder, len(numbers))
        if not all(file.exists() for file in files):
            error = SettingsError("The heat maps of the take are gone; measure it again.")
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        image = load_sequence(f"DAS Heat {entry.key[:8]}", files)
        read_as_srgb(image)
        show_image(image, len(files), numbers[0])
        return {"FINISHED"}


def short_words(report: dict) -> str:
    """How well a take follows its animation, for one line."""
    if report["off"] is None:
        return said("too little has texture to tell")
    return said(
        "{mean:.2f} px off on average, {off:.1%} of the points by more than 1 % of the height, flicker {flicker:.1f}",
        mean=report["mean_px"] or 0.0,
        off=report["off"],
        flicker=report["flicker"] or 0.0,
    )


# ── What is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_PT_adherence(RenderPanel, bpy.types.Panel):
    """How well the chosen take follows its animation."""

    bl_label = "Does It Follow?"
    bl_order = 7
    bl_parent_id = "DAS_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.prop(context.scene.das, "measure")
        layout.operator("das.best_of", icon="SORTBYEXT")
        entry = chosen_take(context)
        if entry is None:
            return
        report = entry.adherence
        row = layout.row(align=True)
        if report is None:
            row.operator("das.measure_take", icon="DRIVER_DISTANCE")
            return
        row.operator("das.open_heat_maps", icon="IMAGE_DATA")
        row.operator("das.reroll_worst_window", icon="FILE_REFRESH")
        say(layout, short_words(report), "DRIVER_DISTANCE")
        say(layout, said("{share:.0%} of the model's frames is measured", share=report["seen"] * report["counted"]))
        if report["composed"]:
            words = "{share:.0%} of the take is composed of key pictures, and right by construction"
            say(layout, said(words, share=report["composed"]))
        icon = thumbnail(curve_of(report))
        if icon is not None:
            layout.template_icon(icon_value=icon, scale=PLOT_SCALE)
            say(layout, "Pixels off, frame by frame: average in grey, 95 % in orange, 1 % of the height in red")
        column = layout.box().column(align=True)
        column.scale_y = 0.85
        for one in [one for one in report["objects"] if one["off"] is not None][:MOST_OBJECTS]:
            mean = one["mean_px"] or 0.0
            words = said("{name}: {mean:.2f} px, {off:.0%} off", name=one["name"], mean=mean, off=one["off"])
            say(column, words, "OBJECT_DATA")


def curve_of(report: dict) -> Path | None:
    """The picture of the errors of the frames; None where there are none, or the disk refuses."""
    key = f"{report['take'][:8]}-{report['mean_px']}-{report['p95_px']}"
    if key not in _plots:
        known = [one for one in report["frames"] if one["mean_px"] is not None]
        picture = None
        if known:
            mean, most = ([one[name] for one in known] for name in ("mean_px", "p95_px"))
            picture = plot([one["frame"] for one in known], mean, most, report["limit_px"])
        _plots[key] = None if picture is None else keep_picture(f"follow-{report['take'][:8]}", picture)
    return _plots[key]


CLASSES = (
    DAS_OT_measure_take,
    DAS_OT_best_of,
    DAS_OT_reroll_worst_window,
    DAS_OT_open_heat_maps,
    DAS_PT_adherence,
)


def register():
    """Register buttons and panel."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    _plots.clear()
    unregister_classes(CLASSES)
