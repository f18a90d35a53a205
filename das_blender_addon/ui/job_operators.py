# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators ``das.*`` with a job: in a window they start one that a timer drives and return at once; in the
background, and when a script calls them, they block until all is done and raise what went wrong.
"""

from __future__ import annotations

from dataclasses import replace

import bpy

from ..client import known_servers
from ..errors import DasError, SettingsError
from ..jobs import noted, of_scene
from ..jobs.sources import first_frame_file, owner_of
from ..scene.colours import read_as_srgb
from ..shot.open_pictures import strokes_on
from ..shot.pictures import first_frame_path, first_frame_state
from ..shot.server_consent import question
from ..shot.settings import resolve_settings
from ..shot.shot_folder import ensure_shot_id, shot_folder
from ..take import drive, recent
from ..take.last_reports import keep_report, keeping
from ..take.pending import Note
from . import saving, session
from .images import load_sequence, show_image
from .job_overlay import redraw_views
from .job_report import redraw_status, report_end
from .last_check import words_of_report
from .replacing import ReplacingJob
from .words import said, translated

# ── What the operators with a job have in common ────────────────────────────────────────────────────────────────────


class JobOperator:
    """Runs a recipe: `make_recipe` makes it, `finished` takes its result.

    ``waits``: while another job runs it waits its turn, as it was when the button was pressed.
    """

    bl_options = {"REGISTER"}
    line = "job"
    waits = False
    note = None
    """Of the takes that `make_recipe` makes a recipe of: a `Note`."""
    keeps_shot_id = True
    """Whether what it makes is the scene's, and found by its id."""

    @classmethod
    def poll(cls, context):
        if session.running_job() is not None and not cls.waits:
            cls.poll_message_set(said("{job} is running: wait for it, or cancel it", job=session.running_job().name))
            return False
        reason = cls.why_not(context)
        if reason:
            cls.poll_message_set(translated(reason))
        return not reason

    @classmethod
    def why_not(cls, context) -> str:
        """Why the operator cannot run now, "" when it can; nothing that takes time."""
        return ""

    def execute(self, context):
        """Block until it is done (background, scripts)."""
        shown = context.window_manager.das
        try:
            result = drive.finish(self.make_recipe(context.scene), on_status=drive.log_status)
            self.finished(context.scene, result)
        except DasError as error:
            session.show_end(shown, "", error, self.line)
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        session.show_end(shown, self.words(result), None, self.line)
        return {"FINISHED"}

    def invoke(self, context, _event):
        """Start the job and return; a timer drives it."""
        if bpy.app.background:
            return self.execute(context)
        if self.keeps_shot_id:
            ensure_shot_id(context.scene)
        try:
            full = session.no_room()
            if full:
                raise SettingsError(f"{full}.")
            recipe = self.make_recipe(context.scene)
        except DasError as error:
            if session.running_job() is None:
                session.show_end(context.window_manager.das, "", error, self.line)
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        before = begin(type(self), context.scene, recipe, self.note)
        if before:
            words = said("{name} waits in the queue, as number {place}", name=self.bl_label, place=before)
            self.report({"INFO"}, words)
        return {"FINISHED"}


def begin(operator: type, scene, recipe, note: Note | None = None, title: str = "") -> int:
    """Let the window drive ``recipe`` as the job of ``operator``, now or after those that wait; how many are before it.

    ``title``: what tells it from others of its kind.
    """
    show, done = shown_in_window(operator, scene)

    def begun() -> None:
        session.show_begin(bpy.context.window_manager.das, operator.bl_label, operator.line)

    about = {"note": note, "scene": scene.name, "title": title}
    job = session.SessionJob(operator.bl_label, recipe, show, done, begin=begun, **about)
    before = session.add_job(job)
    redraw()
    return before


def shown_in_window(operator: type, scene):
    """What a `session.SessionJob` of ``operator`` calls at every status and at its end.

    The ``scene`` is looked up by what it keeps through undo, which makes new ones of old ones, and renaming.  When
    another file was opened meanwhile, what the job made is on disk, and nothing of the open file is told of it.
    """
    file, uid = session.files_opened(), scene.session_uid

    def show(status):
        session.show_status(bpy.context.window_manager.das, status, operator.line)
        redraw()
        redraw_views()

    def done(result, error):
        words = ""
        try:
            saving.bring_late()
            is_there = session.files_opened() == file
            now = next((one for one in bpy.data.scenes if one.session_uid == uid), None) if is_there else None
            if error is None and now is not None:
                operator.finished(now, result)
            if error is None:
                words = operator.words(result)
            if error is None and not is_there:
                words = said("{words} (of the file that was open before)", words=words)
        except Exception as late:  # the border, too: else the panel would show a running job for ever
            if not isinstance(late, DasError):
                session.LOGGER.exception("%s failed at its end", operator.bl_label)
            error = late
        session.show_end(bpy.context.window_manager.das, words, error, operator.line)
        redraw()
        redraw_views()
        report_end(operator.bl_label, words, error)

    return show, done


def redraw() -> None:
    """Let the status bar, every Properties editor and the preferences show what is new."""
    redraw_status()
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"PROPERTIES", "PREFERENCES", "IMAGE_EDITOR", "SEQUENCE_EDITOR"}:
                area.tag_redraw()


def no_camera(scene) -> str:
    """Why the scene cannot be seen, "" when it can."""
    if scene.camera is None and not any(marker.camera for marker in scene.timeline_markers):
        return "The scene has no camera: add one (Add › Camera) and make it the active camera"
    return ""


def painted_first_frame(scene) -> str:
    """The name of the painted first frame that a new render would replace, "" for none."""
    try:
        settings = resolve_settings(scene)
    except DasError:  # the job itself will say it
        return ""
    folder, frame = shot_folder(scene, settings.cache_folder), settings.frames[0]
    owner = owner_of(scene, folder)
    if first_frame_state(folder, frame, owner=owner) != "user":
        return ""
    return first_frame_path(folder, frame, owner=owner).name


def _has_strokes(scene) -> bool:
    """Whether the first frame is open with strokes that were not saved; a new one would leave them behind."""
    try:
        return strokes_on(first_frame_file(scene)) is not None
    except DasError:  # the job itself will say it
        return False


def server_question(scene) -> str:
    """What a window's user has to decide first; without a window a job itself says why it is refused."""
    return "" if bpy.app.background else question(scene).rstrip(".")


def _no_plan(scene) -> str:
    """Why the shot does not fit the model, as far as the server was asked; "" when nothing is known against it."""
    try:
        settings = resolve_settings(scene)
        capabilities = known_servers.known_capabilities(settings.server)
        if capabilities is not None:
            of_scene.plan_shot(scene, settings, capabilities)
    except DasError as error:
        return error.message.rstrip(".")
    return ""


# ── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_test_connection(JobOperator, bpy.types.Operator):
    bl_idname = "das.test_connection"
    bl_label = "Test Connection"
    bl_description = "Ask the server what it is and which models it has"
    line = "server"

    @classmethod
    def why_not(cls, context):
        return server_question(context.scene)

    def make_recipe(self, scene):
        return of_scene.hello(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, welcome):
        """The recipe has remembered everything."""

    @classmethod
    def words(cls, welcome):
        return known_servers.words_of_server(welcome)


def shown_preview(scene, *, in_child: bool | None = None):
    """The recipe of *Preview Tracking*, which shows its pictures as soon as they are there, unless another file is."""
    settings, file = resolve_settings(scene), session.files_opened()

    def show(files):
        if session.files_opened() == file:
            image = load_sequence("DAS Tracking", files)
            read_as_srgb(image)
            show_image(image, len(files), settings.frames[0])

    return of_scene.tracking_preview(scene, settings, on_files=show, in_child=in_child)


class DAS_OT_preview_tracking(JobOperator, bpy.types.Operator):
    bl_idname = "das.preview_tracking"
    bl_label = "Preview Tracking"
    bl_description = (
        "Render only the tracking video of the shot and open it; needs no server. "
        "Once the server was asked, it is what the model will see, at its size and framing"
    )
    waits = True

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene)

    def make_recipe(self, scene):
        return shown_preview(scene)

    @classmethod
    def finished(cls, scene, made):
        keep_report(scene, made.report)

    @classmethod
    def words(cls, made):
        where = said("Tracking video of {count} frames in {folder}", count=len(made.files), folder=made.files[0].parent)
        found = words_of_report(made.report)
        return said("{where}. {found}", where=where, found=found) if found else where


class DAS_OT_render_first_frame(ReplacingJob, JobOperator, bpy.types.Operator):
    bl_idname = "das.render_first_frame"
    bl_label = "Render First Frame"
    bl_description = (
        "Render the first frame of the shot with the chosen engine, at the model's size and framing. "
        "One that was painted over is kept under another name"
    )
    waits = True
    confirmed: bpy.props.BoolProperty(options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def why_not(cls, context):
        if context.scene.das.first_frame_path or context.scene.das.first_frame_image is not None:
            return "The first frame is an image of your own: clear its path to render one"
        if _has_strokes(context.scene):
            return "The first frame has strokes that are not saved: save the image, or reload it"
        return no_camera(context.scene) or server_question(context.scene)

    def replaced_picture(self, scene):
        return painted_first_frame(scene)

    def make_recipe(self, scene):
        return of_scene.first_frame_again(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, picture):
        """The panel finds the file in its place."""

    @classmethod
    def words(cls, picture):
        return said("First frame in {path}", path=picture.path)


class DAS_OT_render_take(JobOperator, bpy.types.Operator):
    bl_idname = "das.render_take"
    bl_label = "Render Take"
    bl_description = (
        "Send the shot to the server and bring its frames back, while you go on working; while another job runs it "
        "waits in the queue"
    )
    waits = True
    anew: bpy.props.BoolProperty(
        name="Anew",
        description="Render the take anew although a finished one is there, which stays until the new one is whole",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene) or server_question(context.scene) or _no_plan(context.scene)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        settings = replace(settings, anew=settings.anew or self.anew)
        recipe, self.note = noted.noted_takes(scene, noted.TAKE, [settings], on_report=keeping(scene))
        return recipe

    @classmethod
    def finished(cls, scene, take):
        recent.remember_take(scene, take)

    @classmethod
    def words(cls, take):
        words = said("Take of {count} frames, seed {seed}", count=len(take.frames), seed=take.report.get("seed", 0))
        notes = take.report.get("first_frame_notes", [])
        return said("{take}. {notes}", take=words, notes=" ".join(notes)) if notes else words


class DAS_OT_cancel(bpy.types.Operator):
    bl_idname = "das.cancel"
    bl_label = "Cancel"
    bl_description = "Cancel what is running"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if session.running_job() is None:
            cls.poll_message_set(said("Nothing is running"))
            return False
        return True

    def execute(self, context):
        session.running_job().cancel()
        return {"FINISHED"}


CLASSES = (
    DAS_OT_test_connection,
    DAS_OT_preview_tracking,
    DAS_OT_render_first_frame,
    DAS_OT_render_take,
    DAS_OT_cancel,
)
