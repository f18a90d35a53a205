# SPDX-License-Identifier: GPL-3.0-or-later
"""`Scene.das`: the settings of a shot, saved with the file; and `WindowManager.das`: what a running session shows
(server, progress), forgotten with the session.  Which value of a setting counts, `shot.settings` decides.
"""

from __future__ import annotations

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from .. import compat
from ..client.known_servers import known_capabilities
from ..errors import SettingsError
from ..protocol.sizes import nearest_size
from ..shot.server_consent import USE_FILES, remember_answer
from ..shot.settings import MAX_SAMPLES, MAX_SEED, parse_size
from ..shot.windows import MOST_EVERY
from .words import register_classes, unregister_classes


def _search_models(_settings, _context, edit_text: str):
    """Names of the models that the last answer of the server offered (for the search field; no network)."""
    capabilities = known_capabilities()
    names = [model.name for model in capabilities.models] if capabilities is not None else []
    return [name for name in names if edit_text.lower() in name.lower()]


def _search_sizes(settings, _context, edit_text: str):
    """AUTO and the sizes of the chosen model, as the server offered them; first the one nearest to what is typed."""
    capabilities = known_capabilities()
    models = capabilities.models if capabilities is not None else []
    name = settings.model or (capabilities.default_model if capabilities is not None else "")
    chosen = next((model for model in models if model.name == name), None)
    sizes = [f"{width}x{height}" for width, height in chosen.sizes] if chosen is not None else []
    found = [size for size in ("AUTO", *sizes) if edit_text.lower() in size.lower() or edit_text == settings.size]
    try:
        typed = parse_size(edit_text)
    except SettingsError:
        typed = None
    if typed is not None and sizes:
        nearest = "{}x{}".format(*nearest_size(chosen, *typed))
        found = [nearest, *(size for size in found if size != nearest)]
    return found


def _server_was_set(settings, _context):
    """Whoever sets it in this session has agreed to it; reading a file does not come here."""
    if settings.server:
        remember_answer(settings.server, USE_FILES, keep=not bpy.app.background)


def _take_is_shown(_session, context):
    """Every viewport is drawn anew."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


class DAS_PG_key_picture(bpy.types.PropertyGroup):
    """A key picture besides the first frame."""

    frame: IntProperty(name="Frame", description="Frame that the picture shows", default=1, options=set())
    path: StringProperty(
        name="Picture",
        description="Picture of your own, of any format that Blender reads; empty uses the one that is rendered",
        subtype="FILE_PATH",
        options=compat.relative_path_options(),
    )
    image: PointerProperty(
        name="Image in This File",
        description="Image of this file that is the picture, with strokes that were not saved yet",
        type=bpy.types.Image,
    )


class DAS_PG_settings(bpy.types.PropertyGroup):
    """Settings of a shot, saved with the file."""

    def __setattr__(self, name: str, value):
        if name == "compose" and isinstance(value, bool):  # once it was a switch, and so presets of that time say
            value = "ON" if value else "OFF"
        super().__setattr__(name, value)

    prompt: StringProperty(name="Prompt", description="What the shot shows, in words")
    prompt_text: PointerProperty(
        name="Prompt Text",
        description="Text of this file that is the prompt, in several lines, instead of the words above; lines that "
        "begin with # are none",
        type=bpy.types.Text,
    )
    negative_prompt: StringProperty(name="Negative Prompt", description="What the shot must not show")
    seed: IntProperty(
        name="Seed", description="The same seed gives the same frames", default=0, min=0, max=MAX_SEED, options=set()
    )
    steps: IntProperty(
        name="Steps", description="Denoising steps; 0 takes the model's default", min=0, max=1000, options=set()
    )
    guidance: FloatProperty(
        name="Guidance",
        description="How strictly the prompt is followed; 0 takes the model's default",
        min=0.0,
        max=50.0,
        soft_max=15.0,
        options=set(),
    )
    model: StringProperty(
        name="Model",
        description="Name of a model that the server offers; empty takes the server's default",
        search=_search_models,
        search_options={"SUGGESTION"},
    )
    size: StringProperty(
        name="Model Size",
        description="AUTO for the model's own size, or WIDTHxHEIGHT in pixels that the model makes",
        default="AUTO",
        search=_search_sizes,
        search_options={"SUGGESTION"},
    )
    tracking_range: EnumProperty(
        name="Tracking Range",
        description="How the model reads the tracking video",
        items=(
            ("AUTO", "Model's Default", "What the model was trained with", 0),
            ("signed", "Signed", "-1 to 1", 1),
            ("unit", "Unit", "0 to 1", 2),
        ),
        default="AUTO",
        options=set(),
    )
    stereo_view: StringProperty(
        name="View",
        description="Which view of a stereoscopic scene is taken, by its name: left or right",
    )
    background: EnumProperty(
        name="Background",
        description="What the tracking video shows where there is no surface",
        items=(
            ("black", "Black", "Nothing, as in the published model's training", 0),
            ("sky", "Sky", "Places at infinity, which keep still while the camera moves and turn when it turns", 1),
        ),
        default="black",
        options=set(),
    )
    loras: StringProperty(
        name="LoRAs",
        description="Adapters of the model that the server has, with their weights: NAME:0.8, OTHER:0.5",
    )
    speed: EnumProperty(
        name="Speed",
        description="How much the model may leave out to be done sooner",
        items=(
            ("AUTO", "Server's Default", "What the server was started with", 0),
            ("exact", "Exact", "Everything is computed", 1),
            ("fast", "Fast", "Blocks whose result hardly changes are left out", 2),
            ("preview", "Preview", "More of them, and fewer steps: the motion, not the last detail", 3),
        ),
        default="AUTO",
        options=set(),
    )
    compose: EnumProperty(
        name="Keep Key Picture Detail",
        description="Carry the key pictures' own pixels along wherever their surfaces are seen, at the render's size; "
        "the model paints the rest",
        items=(
            ("AUTO", "Automatic", "With models that are made for it: the preview model and Wan VACE", 2),
            ("ON", "Whole", "The pictures' own pixels wherever a surface of theirs is seen", 1),
            ("FINE", "Fine Detail Only", "What is finer than the model's pixels; light and tone are its own", 3),
            ("OFF", "Off", "The model's own frames", 0),
        ),
        default="AUTO",
        options=set(),
    )
    model_frames_every: IntProperty(
        name="Model Frames Every",
        description="The model makes every so many-th frame, and the frames between are composed from those; 0 comes "
        "as near as possible to the frames per second that the model was trained at",
        min=0,
        max=MOST_EVERY,
        soft_max=8,
        options=set(),
    )
    measure: BoolProperty(
        name="Measure Adherence",
        description="After a take, let the server measure whether it follows the animation: how far points are from "
        "where exact tracking has them, and how much surfaces flicker",
        default=False,
        options=set(),
    )
    key_mode: EnumProperty(
        name="Key Pictures",
        description="Pictures of the shot that the frames between are made from",
        items=(
            ("AUTO", "Automatic", "As many as the shot needs with models that read them, one with others", 0),
            ("FIRST", "First Frame", "Only the first frame", 1),
            ("LIST", "List", "The first frame and those of the list", 2),
        ),
        default="AUTO",
        options=set(),
    )
    key_pictures: CollectionProperty(type=DAS_PG_key_picture, name="Key Pictures")
    key_most_unseen: FloatProperty(
        name="Unseen at Most",
        description="Share of any frame that may be seen by no key picture, for Suggest",
        subtype="PERCENTAGE",
        default=5.0,
        min=0.0,
        max=100.0,
        options=set(),
    )
    key_index: IntProperty(name="Active Key Picture", default=0, min=0, options=set())
    use_shot_range: BoolProperty(
        name="Shot Range",
        description="Use a frame range of its own instead of the scene's",
        default=False,
        options=set(),
    )
    shot_start: IntProperty(
        name="Start", description="First frame of the shot", default=1, min=0, max=1048574, options=set()
    )
    shot_end: IntProperty(
        name="End", description="Last frame of the shot", default=49, min=0, max=1048574, options=set()
    )
    first_frame_path: StringProperty(
        name="First Frame",
        description="Picture that is the first frame, of any format that Blender reads, fitted to the model's size; "
        "empty uses the one that Render First Frame makes",
        subtype="FILE_PATH",
        options=compat.relative_path_options(),
    )
    first_frame_image: PointerProperty(
        name="Image in This File",
        description="Image of this file that is the first frame, with strokes that were not saved yet; "
        "a file that is chosen as Image goes before it",
        type=bpy.types.Image,
    )
    first_frame_engine: EnumProperty(
        name="Engine",
        description="Render engine that makes the first frame",
        items=(
            ("CYCLES", "Cycles", "Path tracing, works everywhere", 0),
            ("EEVEE", "EEVEE", "Real-time engine, needs OpenGL", 1),
            ("WORKBENCH", "Workbench", "Solid shading, needs OpenGL", 2),
        ),
        default="CYCLES",
        options=set(),
    )
    first_frame_samples: IntProperty(
        name="Samples",
        description="Samples per pixel of the first frame",
        default=32,
        min=1,
        max=MAX_SAMPLES,
        options=set(),
    )
    first_frame_view: StringProperty(
        name="Kept View",
        description="View transform that the first frame is rendered with; empty takes the scene's own look. "
        "Keep Look fills it in",
    )
    first_frame_look: StringProperty(
        name="Kept Look", description="Look that the first frame is rendered with; empty for none"
    )
    first_frame_exposure: FloatProperty(
        name="Kept Exposure",
        description="Exposure that the first frame is rendered with, stops",
        min=-32.0,
        max=32.0,
        soft_min=-10.0,
        soft_max=10.0,
        options=set(),
    )
    first_frame_gamma: FloatProperty(
        name="Kept Gamma",
        description="Gamma that the first frame is rendered with",
        default=1.0,
        min=0.0,
        max=5.0,
        options=set(),
    )
    first_frame_curves: BoolProperty(
        name="Kept Curves",
        description="The first frame is rendered with the curves of the scene's colour management",
        options=set(),
    )
    first_frame_white_balance: BoolProperty(
        name="Kept White Balance",
        description="The first frame is rendered with the white balance of the scene's colour management",
        options=set(),
    )
    server: StringProperty(
        name="Server",
        description="Address of the server for this scene; empty uses the one in the preferences",
        update=_server_was_set,
    )
    cache_folder: StringProperty(
        name="Cache",
        description="Folder for first frames and takes; empty puts it beside the file",
        subtype="DIR_PATH",
        options=compat.relative_path_options(),
    )
    shot_id: StringProperty(
        name="Shot Id", description="By it the shot's first frames and takes are found", options={"HIDDEN"}
    )
    edited_at: StringProperty(
        name="Edited At", description="When geometry or cameras were last edited, in seconds", options={"HIDDEN"}
    )
    edit_scene: PointerProperty(
        name="Edit Scene",
        description="Scene whose sequencer takes the strips; empty makes one of its own",
        type=bpy.types.Scene,
    )


_STATES = (
    ("IDLE", "Idle", "", 0),
    ("RUNNING", "Running", "", 1),
    ("DONE", "Done", "", 2),
    ("FAILED", "Failed", "", 3),
    ("CANCELLED", "Cancelled", "", 4),
)


class DAS_PG_session(bpy.types.PropertyGroup):
    """What the running session shows; never read from a file."""

    server_state: EnumProperty(items=_STATES, options={"SKIP_SAVE"})
    server_line: StringProperty(options={"SKIP_SAVE"})
    job_state: EnumProperty(items=_STATES, options={"SKIP_SAVE"})
    job_line: StringProperty(options={"SKIP_SAVE"})
    progress: FloatProperty(min=0.0, max=1.0, options={"SKIP_SAVE"})
    show_take: BoolProperty(
        name="Show Take",
        description="Draw the chosen take over the camera's view in every viewport, at the current frame",
        update=_take_is_shown,
        options={"SKIP_SAVE"},
    )
    follow_job: BoolProperty(
        name="Follow Job",
        description="While a job runs, show its previews there, as large as they fit, with how far it is",
        default=True,
        update=_take_is_shown,
        options={"SKIP_SAVE"},
    )
    take_opacity: FloatProperty(
        name="Opacity",
        description="How opaque the take is",
        subtype="FACTOR",
        default=1.0,
        min=0.0,
        max=1.0,
        update=_take_is_shown,
        options={"SKIP_SAVE"},
    )
    take_wipe: FloatProperty(
        name="Wipe",
        description="Share of the picture's width, from the left, where the viewport shows instead of the take",
        subtype="FACTOR",
        default=0.0,
        min=0.0,
        max=1.0,
        update=_take_is_shown,
        options={"SKIP_SAVE"},
    )


CLASSES = (DAS_PG_key_picture, DAS_PG_settings, DAS_PG_session)


def register():
    """Give every scene its `das` settings and the window manager its session."""
    register_classes(CLASSES)
    bpy.types.Scene.das = PointerProperty(name="Diffusion as Shader", type=DAS_PG_settings)
    bpy.types.ViewLayer.das_folder = StringProperty(
        name="Shot Folder", description="By it the view layer's first frames and takes are found", options={"HIDDEN"}
    )
    bpy.types.WindowManager.das = PointerProperty(name="Diffusion as Shader Session", type=DAS_PG_session)


def unregister():
    """Take them away again."""
    del bpy.types.WindowManager.das
    del bpy.types.ViewLayer.das_folder
    del bpy.types.Scene.das
    unregister_classes(CLASSES)
