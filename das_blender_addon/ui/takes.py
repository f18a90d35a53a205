# SPDX-License-Identifier: GPL-3.0-or-later
"""*Takes*: every take of the shot in its cache, this session's and last month's, and what can be done with one."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.app.handlers import persistent
from bpy.props import BoolProperty, StringProperty

from ..errors import DasError, SettingsError
from ..jobs.scripting import add_to_sequencer
from ..jobs.sources import source_of
from ..scene.colours import read_as_srgb
from ..scene.layers import render_layer
from ..scene.sound import heard_with
from ..take.cleaning import is_starred, size_in_words
from ..take.comparing import write_sheet
from ..take.library import TakeEntry, check_deletable, check_frames, differences, one_line, set_star, settings_of
from ..take.movie import SUFFIX, movie
from .beside import beside
from .cache_page import used_takes
from .drawing import say, thumbnail
from .images import load_sequence, show_image, shown_as
from .job_operators import JobOperator, redraw
from .kept_jobs import draw_kept_jobs
from .panel import RenderPanel
from .take_shelf import chosen_take, shelf, throw_away
from .words import register_classes, said, unregister_classes

ROWS, DIFFERENCES_SHOWN, MOST_OF_VALUE, THUMBNAIL_SCALE = 4, 8, 80, 6.0


# ── What is done with a take ────────────────────────────────────────────────────────────────────────────────────────


class TakeOperator:
    """Does something with the chosen take."""

    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if chosen_take(context) is None:
            cls.poll_message_set(said("The shot has no take yet: use Render Take"))
            return False
        return True

    def execute(self, context):
        try:
            words = self.act(context, chosen_take(context))
        except DasError as error:
            shelf.forget()
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        if words:
            self.report({"INFO"}, words)
        shelf.forget()
        redraw()
        return {"FINISHED"}


class DAS_OT_open_take(TakeOperator, bpy.types.Operator):
    bl_idname = "das.open_take"
    bl_label = "Open"
    bl_description = "Show the frames of the take in an Image Editor, in step with the timeline"

    def act(self, context, entry):
        take = entry.take
        check_frames(take)
        image = load_sequence(f"DAS Take {entry.key[:8]}", list(take.frames))
        read_as_srgb(image)
        show_image(image, len(take.frames), take.frame_numbers[0])
        return ""


class DAS_OT_use_take_settings(TakeOperator, bpy.types.Operator):
    bl_idname = "das.use_take_settings"
    bl_label = "Use These Settings"
    bl_description = "Give the scene the prompt, seed, model, steps and size that the take was made with"
    bl_options = {"REGISTER", "UNDO"}

    def act(self, context, entry):
        for name, value in settings_of(entry).items():
            try:
                setattr(context.scene.das, name, value)
            except (TypeError, ValueError, OverflowError) as error:  # of another release, or written by hand
                raise SettingsError(f"The take has {value!r} as {name}, which is no setting: {error}") from error
        return said("The settings of the take of {when}", when=entry.when)


class DAS_OT_star_take(TakeOperator, bpy.types.Operator):
    bl_idname = "das.star_take"
    bl_label = "Star"
    bl_description = "Star the take, or take its star away; Clean Up keeps starred takes"

    def act(self, context, entry):
        set_star(entry, not is_starred(entry.take.folder))
        return ""


class DAS_OT_delete_take(TakeOperator, bpy.types.Operator):
    bl_idname = "das.delete_take"
    bl_label = "Delete…"
    bl_description = "Delete the take from the disk; says what that frees, and asks"

    def invoke(self, context, event):
        """Ask first, in a window."""
        entry = chosen_take(context)
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=said("Delete the take of {when}?", when=entry.when),
            message=said("{size} are freed; its frames cannot be brought back", size=size_in_words(entry.size_bytes)),
            confirm_text=said("Delete"),
        )

    def act(self, context, entry):
        check_deletable(entry, used_takes())
        return said("{size} freed", size=size_in_words(throw_away([entry])))


class DAS_OT_clean_up_takes(TakeOperator, bpy.types.Operator):
    bl_idname = "das.clean_up_takes"
    bl_label = "Clean Up…"
    bl_description = "Delete all takes of the shot that are neither starred nor on a strip of this file; asks first"

    def invoke(self, context, event):
        """Ask first, in a window."""
        entries = _disposable(shelf.look(context.scene))
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=said("Delete {count} takes?", count=len(entries)),
            message=said("{size} are freed", size=size_in_words(sum(entry.size_bytes for entry in entries))),
            confirm_text=said("Delete"),
        )

    def act(self, context, entry):
        freed = throw_away(_disposable(shelf.look(context.scene)))
        return said("{size} freed", size=size_in_words(freed))


class DAS_OT_take_to_sequencer(TakeOperator, bpy.types.Operator):
    bl_idname = "das.take_to_sequencer"
    bl_label = "Add to Sequencer"
    bl_description = "Put the take into the sequencer of the edit scene, with its seed and prompt on the strip"
    bl_options = {"REGISTER", "UNDO"}

    def act(self, context, entry):
        strip = add_to_sequencer(entry.take, context.scene, edit_scene=context.scene.das.edit_scene)
        return said("{strip} in {scene}", strip=strip.name, scene=strip.id_data.name)


class DAS_OT_take_sheet(TakeOperator, bpy.types.Operator):
    bl_idname = "das.take_sheet"
    bl_label = "Contact Sheet"
    bl_description = "Show a dozen frames of the take in one picture, which is kept beside the takes"

    def act(self, context, entry):
        file = entry.take.folder.parent.parent / "sheets" / f"{entry.key[:16]}.png"
        beside(self.bl_label, lambda _stop: [write_sheet(entry.take.frames, file)], shown_as("DAS Contact Sheet"))
        return str(file)


class DAS_OT_take_movie(JobOperator, bpy.types.Operator):
    bl_idname = "das.take_movie"
    bl_label = "Movie…"
    bl_description = "Write the chosen take, with the scene's sound, as a movie that any player shows"
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    check_existing: BoolProperty(default=True, options={"HIDDEN"})
    filter_glob: StringProperty(default=f"*{SUFFIX}", options={"HIDDEN"})

    @classmethod
    def why_not(cls, context):
        return "" if chosen_take(context) is not None else "The shot has no take yet: use Render Take"

    def invoke(self, context, _event):
        """Ask where to."""
        self.filepath = self.filepath or f"//{context.scene.name}{SUFFIX}"
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        """In a window the job is driven by a timer from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        output = Path(bpy.path.ensure_ext(bpy.path.abspath(self.filepath), SUFFIX))
        fps_base = scene.render.fps_base * scene.frame_step
        source = source_of(scene, render_layer(scene).name)
        take = chosen_take(bpy.context).take
        check_frames(take)
        heard = heard_with(scene, take.frame_numbers)
        return movie(take.frames, output, scene.render.fps, fps_base, source, heard)

    @classmethod
    def finished(cls, scene, path):
        """It is where it was asked for."""

    @classmethod
    def words(cls, path):
        return said("Movie in {path}", path=path)


def _disposable(entries: list[TakeEntry]) -> list[TakeEntry]:
    kept = used_takes()
    return [entry for entry in entries if not is_starred(entry.take.folder) and entry.key not in kept]


# ── What is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_UL_takes(bpy.types.UIList):
    """One line for each take."""

    def draw_item(self, context, layout, _data, item, _icon, _active, _property, index=0):
        entries = shelf.entries
        place = next((place for place, entry in enumerate(entries) if entry.key == item.name), None)
        if place is None:
            return  # gone meanwhile
        entry = entries[place]
        before = entries[place + 1] if place + 1 < len(entries) else None
        row = layout.row(align=True)
        icon = thumbnail(entry.thumbnail)
        picture = {"icon_value": icon} if icon else {"icon": "IMAGE_DATA"}
        row.label(text=entry.words(before), translate=False, **picture)
        side = row.row(align=True)
        side.alignment = "RIGHT"
        side.label(text=entry.when[5:], translate=False)
        side.label(text="", icon="SOLO_ON" if entry.starred else "SOLO_OFF")


class DAS_PT_takes(RenderPanel, bpy.types.Panel):
    """Every take of the shot."""

    bl_label = "Takes"
    bl_order = 6
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout, manager = self.layout, context.window_manager
        draw_kept_jobs(layout, context.scene)
        layout.operator("das.variations", icon="PRESET_NEW")
        layout.operator("das.render_all_shots", icon="CAMERA_DATA")
        entry = chosen_take(context)
        if entry is None:
            say(layout, "None yet: every take of the shot will be listed here", "INFO")
            _draw_overlay(layout, manager)
            return
        row = layout.row()
        row.template_list("DAS_UL_takes", "", manager, "das_takes", manager, "das_take_index", rows=ROWS)
        column = row.column(align=True)
        column.operator("das.star_take", text="", icon="SOLO_ON" if entry.starred else "SOLO_OFF")
        column.operator("das.delete_take", text="", icon="TRASH")
        icon = thumbnail(entry.thumbnail)
        if icon is not None:
            layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)
        frames, size = len(entry.take.frames), size_in_words(entry.size_bytes)
        say(layout, said("{count} frames, {size}, {when}", count=frames, size=size, when=entry.when))
        _draw_changes(layout, entry)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.operator("das.open_take", icon="IMAGE_DATA")
        row.operator("das.use_take_settings", icon="PASTEDOWN")
        row = column.row(align=True)
        row.operator("das.compare_takes", icon="SPLIT_VERTICAL")
        row.operator("das.take_to_sequencer", icon="SEQUENCE")
        row = column.row(align=True)
        row.operator("das.compare_strips", icon="SEQ_SPLITVIEW")
        row.operator("das.remove_compared", text="", icon="X")
        row = column.row(align=True)
        row.operator("das.take_sheet", icon="IMGDISPLAY")
        row.operator("das.take_movie", icon="FILE_MOVIE")
        column.operator("das.make_full", icon="RENDER_RESULT")
        column.operator("das.repair_frame", icon="BRUSH_DATA")
        column.operator("das.repair_region", icon="MOD_MASK")
        column.operator("das.clean_up_takes", icon="TRASH")
        _draw_overlay(layout, manager)


def _draw_changes(layout, entry: TakeEntry) -> None:
    """What is other than in the take before."""
    entries = shelf.entries
    place = entries.index(entry) if entry in entries else len(entries)
    if place + 1 >= len(entries):
        return
    changed = differences(entries[place + 1], entry)
    column = layout.box().column(align=True)
    column.scale_y = 0.85
    if not changed:
        say(column, "Made with the settings of the take before it")
    for name, before, after in changed[:DIFFERENCES_SHOWN]:
        if name == "key_pictures":
            say(column, "Other key pictures than the take before it")
        else:
            name = name.replace("_", " ").capitalize()
            before, after = (one_line(str(value), MOST_OF_VALUE) for value in (before, after))
            say(column, said("{name}: {before} → {after}", name=name, before=before, after=after))


def _draw_overlay(layout, manager) -> None:
    box = layout.column(align=True)
    box.prop(manager.das, "show_take", toggle=True, icon="OVERLAY")
    if manager.das.show_take:
        box.prop(manager.das, "follow_job")
        box.prop(manager.das, "take_opacity", slider=True)
        box.prop(manager.das, "take_wipe", slider=True)


class DAS_PG_take(bpy.types.PropertyGroup):
    """A line of the list; its ``name`` is the take's key."""


@persistent
def _forget(*_) -> None:
    """Another file is opened."""
    shelf.folder, shelf.entries = None, []
    shelf.forget()


CLASSES = (
    DAS_PG_take,
    DAS_OT_open_take,
    DAS_OT_use_take_settings,
    DAS_OT_star_take,
    DAS_OT_delete_take,
    DAS_OT_clean_up_takes,
    DAS_OT_take_to_sequencer,
    DAS_OT_take_sheet,
    DAS_OT_take_movie,
    DAS_UL_takes,
    DAS_PT_takes,
)


def register():
    """Register list, buttons and panel."""
    register_classes(CLASSES)
    bpy.types.WindowManager.das_takes = bpy.props.CollectionProperty(type=DAS_PG_take)
    bpy.types.WindowManager.das_take_index = bpy.props.IntProperty(min=0, options={"SKIP_SAVE"})
    bpy.app.handlers.load_post.append(_forget)


def unregister():
    """Undo `register`."""
    _forget()
    bpy.app.handlers.load_post.remove(_forget)
    del bpy.types.WindowManager.das_takes
    del bpy.types.WindowManager.das_take_index
    unregister_classes(CLASSES)
