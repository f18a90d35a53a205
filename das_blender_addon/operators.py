# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators ``das.*``.

In a window the long ones start a job that a timer drives and return at once; in the background, and when a script
calls them, they block until all is done and raise what went wrong.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from . import api, compat, jobs, local_server, recipes
from .colours import keep_look, pixel_changes
from .errors import DasError
from .first_frame import first_frame_path
from .images import load_sequence, show_image
from .properties import MAX_SEED, resolve_settings
from .stepping import is_stepping

# ── What the operators with a job have in common ────────────────────────────────────────────────────────────────────


class _JobOperator:
    """Runs a recipe: `make_recipe` makes it, `finished` takes its result."""

    bl_options = {"REGISTER"}
    line = "job"

    @classmethod
    def poll(cls, context):
        if jobs.running_job() is not None:
            cls.poll_message_set(f"{jobs.running_job().name} is running: wait for it, or cancel it")
            return False
        reason = cls.why_not(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    @classmethod
    def why_not(cls, context) -> str:
        """Why the operator cannot run now, "" when it can; nothing that takes time."""
        return ""

    def execute(self, context):
        """Block until it is done (background, scripts)."""
        session = context.window_manager.das
        try:
            result = jobs.finish(self.make_recipe(context.scene), on_status=jobs.log_status)
            self.finished(context.scene, result)
        except DasError as error:
            jobs.show_end(session, "", error, self.line)
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        jobs.show_end(session, self.words(result), None, self.line)
        return {"FINISHED"}

    def invoke(self, context, _event):
        """Start the job and return; a timer drives it."""
        if bpy.app.background:
            return self.execute(context)
        try:
            recipe = self.make_recipe(context.scene)
        except DasError as error:
            jobs.show_end(context.window_manager.das, "", error, self.line)
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        jobs.show_begin(context.window_manager.das, self.bl_label, self.line)
        show, done = _shown_in_window(type(self), context.scene.name)
        jobs.start_job(jobs.SessionJob(self.bl_label, recipe, show, done))
        return {"FINISHED"}


def _shown_in_window(operator: type, scene_name: str):
    """What a `jobs.SessionJob` of ``operator`` calls at every status and at its end.

    The scene is looked up by name: undo makes new scenes of old ones.
    """

    def show(status):
        jobs.show_status(bpy.context.window_manager.das, status, operator.line)
        redraw()

    def done(result, error):
        scene = bpy.data.scenes.get(scene_name)
        if error is None and scene is not None:
            try:
                operator.finished(scene, result)
            except DasError as late:
                error = late
        jobs.show_end(
            bpy.context.window_manager.das, "" if error is not None else operator.words(result), error, operator.line
        )
        redraw()

    return show, done


def redraw() -> None:
    """Let every Properties editor and the preferences show what is new."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"PROPERTIES", "PREFERENCES", "IMAGE_EDITOR", "SEQUENCE_EDITOR"}:
                area.tag_redraw()


def no_camera(scene) -> str:
    """Why the scene cannot be seen, "" when it can."""
    if scene.camera is None and not any(marker.camera for marker in scene.timeline_markers):
        return "The scene has no camera: add one (Add › Camera) and make it the active camera"
    return ""


def _no_plan(scene) -> str:
    """Why the shot does not fit the model, as far as the server was asked; "" when nothing is known against it."""
    try:
        settings = resolve_settings(scene)
        capabilities = jobs.known_capabilities(settings.server)
        if capabilities is not None:
            recipes.plan_shot(scene, settings, capabilities)
    except DasError as error:
        return error.message.rstrip(".")
    return ""


# ── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_test_connection(_JobOperator, bpy.types.Operator):
    bl_idname = "das.test_connection"
    bl_label = "Test Connection"
    bl_description = "Ask the server what it is and which models it has"
    line = "server"

    def make_recipe(self, scene):
        return recipes.hello(resolve_settings(scene))

    @classmethod
    def finished(cls, scene, welcome):
        """The recipe has remembered everything."""

    @classmethod
    def words(cls, welcome):
        return jobs.words_of_server(welcome)


class DAS_OT_preview_tracking(_JobOperator, bpy.types.Operator):
    bl_idname = "das.preview_tracking"
    bl_label = "Preview Tracking"
    bl_description = (
        "Render only the tracking video of the shot and open it; needs no server. "
        "Once the server was asked, it is what the model will see, at its size and framing"
    )

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene)

    def make_recipe(self, scene):
        return recipes.tracking_preview(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, files):
        image = load_sequence("DAS Tracking", files)
        image.colorspace_settings.name = "sRGB"
        show_image(image, len(files), resolve_settings(scene).frames[0])

    @classmethod
    def words(cls, files):
        return f"Tracking video of {len(files)} frames in {files[0].parent}"


class DAS_OT_render_first_frame(_JobOperator, bpy.types.Operator):
    bl_idname = "das.render_first_frame"
    bl_label = "Render First Frame"
    bl_description = "Render the first frame of the shot with the chosen engine, at the model's size and framing"

    @classmethod
    def why_not(cls, context):
        if context.scene.das.first_frame_path:
            return "The first frame is an image of your own: clear its path to render one"
        return no_camera(context.scene)

    def make_recipe(self, scene):
        return recipes.first_frame_again(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, path):
        """The panel finds the file in its place."""

    @classmethod
    def words(cls, path):
        return f"First frame in {path}"


class DAS_OT_render_take(_JobOperator, bpy.types.Operator):
    bl_idname = "das.render_take"
    bl_label = "Render Take"
    bl_description = "Send the shot to the server and bring its frames back, while you go on working"

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene) or _no_plan(context.scene)

    def make_recipe(self, scene):
        return recipes.take_outside_render(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, take):
        jobs.remember_take(scene, take)

    @classmethod
    def words(cls, take):
        return f"Take of {len(take.frames)} frames, seed {take.report.get('seed', 0)}"


class DAS_OT_cancel(bpy.types.Operator):
    bl_idname = "das.cancel"
    bl_label = "Cancel"
    bl_description = "Cancel what is running"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if jobs.running_job() is None:
            cls.poll_message_set("Nothing is running")
            return False
        return True

    def execute(self, context):
        jobs.running_job().cancel()
        return {"FINISHED"}


# ── At once ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_randomise_seed(bpy.types.Operator):
    bl_idname = "das.randomise_seed"
    bl_label = "Randomise Seed"
    bl_description = "Take another seed by chance"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.das.seed = random.SystemRandom().randint(0, MAX_SEED)
        return {"FINISHED"}


class DAS_OT_open_first_frame(bpy.types.Operator):
    bl_idname = "das.open_first_frame"
    bl_label = "Open First Frame"
    bl_description = (
        "Open the first frame in an Image Editor, to look at it or to paint over it (save the image when done)"
    )
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if not first_frame_file(context.scene).is_file():
            cls.poll_message_set("There is no first frame yet: use Render First Frame, or choose an image")
            return False
        return True

    def execute(self, context):
        path = first_frame_file(context.scene)
        image = bpy.data.images.load(os.fspath(path), check_existing=True)
        image.reload()
        show_image(image)
        return {"FINISHED"}


class DAS_OT_keep_look(bpy.types.Operator):
    bl_idname = "das.keep_look"
    bl_label = "Keep Look"
    bl_description = (
        "Put the scene's look (view transform, look, exposure, gamma) into the first frame, and let the scene show "
        "the take exactly as made: Standard, without dithering"
    )
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if not pixel_changes(context.scene):
            cls.poll_message_set("The take is shown exactly as made already")
            return False
        return True

    def execute(self, context):
        try:
            keep_look(context.scene)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        return {"FINISHED"}


class DAS_OT_add_to_sequencer(bpy.types.Operator):
    bl_idname = "das.add_to_sequencer"
    bl_label = "Add to Sequencer"
    bl_description = "Put the last take into the sequencer of the edit scene, with its seed and prompt on the strip"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if jobs.last_take(context.scene) is None:
            cls.poll_message_set(
                "There is no take of this scene in this session yet: use Render Take (one on disk comes back at once)"
            )
            return False
        return True

    def execute(self, context):
        try:
            strip = api.add_to_sequencer(jobs.last_take(context.scene), context.scene)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        edit = context.scene.das.edit_scene or strip.id_data
        compat.show_in_sequencer(context, edit)
        self.report({"INFO"}, f"{strip.name} is in the sequencer of {edit.name}")
        redraw()
        return {"FINISHED"}


class DAS_OT_start_local_server(bpy.types.Operator):
    bl_idname = "das.start_local_server"
    bl_label = "Start Local Server"
    bl_description = "Start das-server on this machine; it is stopped together with Blender"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        server = local_server.current()
        if server is not None and server.is_running:
            cls.poll_message_set(f"It is running at {server.address}")
            return False
        reason = local_server.can_start()
        if reason:
            cls.poll_message_set(reason.rstrip("."))
        return not reason

    def execute(self, context):
        try:
            server = local_server.start()
            if bpy.app.background:
                server.wait_until_listening()
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        if not bpy.app.background:
            bpy.app.timers.register(_watch_local_server, first_interval=0.5)
        self.report({"INFO"}, f"The local server starts at {server.address}")
        return {"FINISHED"}


def _watch_local_server() -> float | None:
    """Look now and then whether the server still runs, so that the preferences show it and its log."""
    server = local_server.current()
    redraw()
    return 1.0 if server is not None and server.is_running else None


class DAS_OT_stop_local_server(bpy.types.Operator):
    bl_idname = "das.stop_local_server"
    bl_label = "Stop Local Server"
    bl_description = "Stop the das-server that was started from here"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        server = local_server.current()
        if server is None or not server.is_running:
            cls.poll_message_set("No local server was started from here")
            return False
        return True

    def execute(self, context):
        local_server.stop()
        return {"FINISHED"}


def first_frame_file(scene) -> Path:
    """Where the scene's first frame is, or will be."""
    chosen = resolve_settings(scene)
    return Path(chosen.first_frame_path or first_frame_path(api.shot_folder(scene, chosen.cache_folder)))


CLASSES = (
    DAS_OT_test_connection,
    DAS_OT_preview_tracking,
    DAS_OT_render_first_frame,
    DAS_OT_render_take,
    DAS_OT_cancel,
    DAS_OT_randomise_seed,
    DAS_OT_open_first_frame,
    DAS_OT_keep_look,
    DAS_OT_add_to_sequencer,
    DAS_OT_start_local_server,
    DAS_OT_stop_local_server,
)


@persistent
def stop_before_load(*_):
    """Another file is about to be opened: the running job belongs to the old one."""
    jobs.stop_job()
    jobs.forget_takes()


@persistent
def stop_export_before_undo(*_):
    """Undo or redo comes while a job has the scene's frame and visibility changed: they are set back first."""
    if is_stepping():
        jobs.stop_job("Stopped: the scene was undone or redone while it was exported. Press the button again.")


@persistent
def stop_export_before_save(*_):
    """The file is saved while a job has the scene's frame and visibility changed: they are set back first."""
    if is_stepping():
        jobs.stop_job("Stopped: the file was saved while its scene was exported. Press the button again.")


@persistent
def forget_words_of_file(*_):
    """Another file was opened: what it may hold of its own session is not ours."""
    if jobs.running_job() is None:
        jobs.show_idle(bpy.context.window_manager.das)


def _handlers():
    """(Blender's list of handlers, ours)."""
    lists = bpy.app.handlers
    return (
        (lists.load_pre, stop_before_load),
        (lists.load_post, forget_words_of_file),
        (lists.undo_pre, stop_export_before_undo),
        (lists.redo_pre, stop_export_before_undo),
        (lists.save_pre, stop_export_before_save),
    )


def register():
    """Register the operators; a running job ends before another file is opened, an export before undo and saving."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for handlers, handler in _handlers():
        handlers.append(handler)


def unregister():
    """Undo `register`, and stop what is running."""
    jobs.stop_job()
    jobs.wait_for_threads()
    for handlers, handler in _handlers():
        handlers.remove(handler)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
