# SPDX-License-Identifier: GPL-3.0-or-later
"""`Scene.das`: the settings of a shot, and `resolve_settings`, the one place that decides which value counts.

The environment goes before the scene, the scene before a local server that was started from here, that one before
the add-on preferences, those before the defaults.  A farm can so override every setting of a file without opening
it.  What a running session shows (server, progress) lives on `WindowManager.das` and is forgotten with the session.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from . import compat, local_server, preferences
from .errors import SettingsError
from .protocol.sizes import nearest_size

FIRST_FRAME_ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")
TRACKING_RANGES = ("signed", "unit")
MAX_SEED = 2**31 - 1
MAX_SAMPLES = 65536
ENVIRONMENT = (
    "DAS_SERVER",
    "DAS_TIMEOUT_S",
    "DAS_MODEL",
    "DAS_PROMPT",
    "DAS_NEGATIVE_PROMPT",
    "DAS_SEED",
    "DAS_STEPS",
    "DAS_GUIDANCE",
    "DAS_SIZE",
    "DAS_TRACKING_RANGE",
    "DAS_COMPOSE",
    "DAS_FRAMES",
    "DAS_FIRST_FRAME",
    "DAS_FIRST_FRAME_ENGINE",
    "DAS_FIRST_FRAME_SAMPLES",
    "DAS_CACHE",
)
"""Every environment variable that overrides a setting."""


@dataclass(frozen=True)
class ResolvedSettings:
    """The settings of a shot after every override.

    ``model`` "": the server's default.  ``steps`` 0, ``guidance`` 0.0 and ``tracking_range`` "": the model's
    defaults. ``size``: (width, height) of the model in pixels, None for the model's default.  ``frames``: the
    window's frame numbers, increasing.  ``first_frame_path`` "": the one in the cache.  ``cache_folder``: absolute.
    ``timeout_s``: seconds of silence.
    """

    server: str
    timeout_s: float
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    size: tuple[int, int] | None
    tracking_range: str
    compose: bool
    frames: tuple[int, ...]
    first_frame_path: str
    first_frame_engine: str
    first_frame_samples: int
    cache_folder: Path


def _search_models(_settings, _context, edit_text: str):
    """Names of the models that the last answer of the server offered (for the search field; no network)."""
    from . import jobs  # which needs this module

    capabilities = jobs.known_capabilities()
    names = [model.name for model in capabilities.models] if capabilities is not None else []
    return [name for name in names if edit_text.lower() in name.lower()]


def _search_sizes(settings, _context, edit_text: str):
    """AUTO and the sizes of the chosen model, as the server offered them; first the one nearest to what is typed."""
    from . import jobs  # which needs this module

    capabilities = jobs.known_capabilities()
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


class DAS_PG_settings(bpy.types.PropertyGroup):
    """Settings of a shot, saved with the file."""

    prompt: StringProperty(name="Prompt", description="What the shot shows, in words")
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
    compose: BoolProperty(
        name="Keep First Frame Detail",
        description="Carry the first frame's own pixels along wherever its surfaces stay visible (models that can)",
        default=True,
        options=set(),
    )
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
        description="Image of the first frame at the model's size; empty uses the one that Render First Frame makes",
        subtype="FILE_PATH",
        options=compat.relative_path_options(),
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
        name="Server", description="Address of the server for this scene; empty uses the one in the preferences"
    )
    cache_folder: StringProperty(
        name="Cache",
        description="Folder for first frames and takes; empty puts it beside the file",
        subtype="DIR_PATH",
        options=compat.relative_path_options(),
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


# ── Which value counts ──────────────────────────────────────────────────────────────────────────────────────────────


def resolve_settings(scene, environment=None) -> ResolvedSettings:
    """The settings of ``scene`` after environment, scene, preferences and defaults, in this order.

    Raises `SettingsError` that names the variable or field whose value cannot be used.
    """
    environment = os.environ if environment is None else environment
    settings = scene.das
    machine = preferences.machine_settings()

    first_frame_engine = environment.get("DAS_FIRST_FRAME_ENGINE", "").upper() or settings.first_frame_engine
    if first_frame_engine not in FIRST_FRAME_ENGINES:
        raise SettingsError(
            f"DAS_FIRST_FRAME_ENGINE is {first_frame_engine!r}; use one of {', '.join(FIRST_FRAME_ENGINES)}.",
            field="first_frame_engine",
        )
    return ResolvedSettings(
        server=environment.get("DAS_SERVER", "") or settings.server or local_server.address() or machine.server,
        timeout_s=_number(environment, "DAS_TIMEOUT_S", float, machine.timeout_s, low=1.0, high=86400.0),
        model=environment.get("DAS_MODEL", "") or settings.model,
        prompt=environment.get("DAS_PROMPT", settings.prompt),
        negative_prompt=environment.get("DAS_NEGATIVE_PROMPT", settings.negative_prompt),
        seed=_number(environment, "DAS_SEED", int, settings.seed, low=0, high=MAX_SEED),
        steps=_number(environment, "DAS_STEPS", int, settings.steps, low=0, high=1000),
        guidance=_number(environment, "DAS_GUIDANCE", float, settings.guidance, low=0.0, high=50.0),
        size=parse_size(environment.get("DAS_SIZE", "") or settings.size),
        tracking_range=_tracking_range(environment.get("DAS_TRACKING_RANGE", "") or settings.tracking_range),
        compose=_switch(environment, "DAS_COMPOSE", settings.compose),
        frames=_window(scene, environment.get("DAS_FRAMES", "")),
        first_frame_path=_absolute(environment.get("DAS_FIRST_FRAME", "") or settings.first_frame_path),
        first_frame_engine=first_frame_engine,
        first_frame_samples=_number(
            environment, "DAS_FIRST_FRAME_SAMPLES", int, settings.first_frame_samples, low=1, high=MAX_SAMPLES
        ),
        cache_folder=_cache_folder(environment.get("DAS_CACHE", "") or settings.cache_folder or machine.cache_folder),
    )


def parse_frames(text: str) -> tuple[int, ...]:
    """``"7"``, ``"1-49"`` or ``"1-49x2"`` (every second one) as frame numbers.  Raises `SettingsError`."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+)(?:\s*x\s*(\d+))?)?\s*", text)
    if match is None:
        raise SettingsError(f"The frames {text!r} cannot be read; write 7, 1-49 or 1-49x2.", field="frames")
    start = int(match[1])
    end, step = int(match[2] or start), int(match[3] or 1)
    if end < start or step < 1:
        raise SettingsError(
            f"The frames {text!r} hold no frame; the end comes after the start, the step is 1 or more.", field="frames"
        )
    return tuple(range(start, end + 1, step))


def parse_size(text: str) -> tuple[int, int] | None:
    """``"720x480"`` as (width, height) in pixels; ``""`` and ``"AUTO"`` as None.  Raises `SettingsError`."""
    if text.strip().upper() in ("", "AUTO"):
        return None
    match = re.fullmatch(r"\s*(\d+)\s*[x×]\s*(\d+)\s*", text, re.IGNORECASE)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise SettingsError(
            f"The size {text!r} cannot be read; write AUTO or WIDTHxHEIGHT, for example 720x480.", field="size"
        )
    return int(match[1]), int(match[2])


def _window(scene, override: str) -> tuple[int, ...]:
    if override:
        return parse_frames(override)
    settings = scene.das
    start, end = scene.frame_start, scene.frame_end
    if settings.use_shot_range:
        start, end = settings.shot_start, settings.shot_end
    if end < start:
        raise SettingsError(
            f"The shot ends at frame {end}, before it starts at {start}; set its end after its start.", field="shot_end"
        )
    return tuple(range(start, end + 1, scene.frame_step))


def _number(environment, name: str, kind, otherwise, *, low, high):
    text = environment.get(name, "")
    if not text:
        return otherwise
    try:
        value = kind(text)
    except ValueError as error:
        raise SettingsError(
            f"{name} is {text!r}, which is no {'whole number' if kind is int else 'number'}.", field=name
        ) from error
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text}; it goes from {low} to {high}.", field=name)
    return value


def _tracking_range(text: str) -> str:
    """The tracking range by name, "" for the model's own."""
    name = text.strip().lower()
    if name != "auto" and name not in TRACKING_RANGES:
        raise SettingsError(
            f"DAS_TRACKING_RANGE is {text!r}; use AUTO, {' or '.join(TRACKING_RANGES)}.", field="tracking_range"
        )
    return "" if name == "auto" else name


def _switch(environment, name: str, otherwise: bool) -> bool:
    """A variable that is 1 or 0 (also true, false, yes, no, on, off)."""
    text = environment.get(name, "").strip().lower()
    if not text:
        return otherwise
    if text not in _SWITCHES:
        raise SettingsError(f"{name} is {environment[name]!r}; use 1 or 0.", field=name)
    return _SWITCHES[text]


_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _absolute(path: str) -> str:
    return os.path.abspath(bpy.path.abspath(path)) if path else ""


def _cache_folder(chosen: str) -> Path:
    if chosen:
        return Path(_absolute(chosen))
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / "das_cache"
    return preferences.user_folder("das_cache")


CLASSES = (DAS_PG_settings, DAS_PG_session)


def register():
    """Give every scene its `das` settings and the window manager its session."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.das = PointerProperty(name="Diffusion as Shader", type=DAS_PG_settings)
    bpy.types.WindowManager.das = PointerProperty(name="Diffusion as Shader Session", type=DAS_PG_session)


def unregister():
    """Take them away again."""
    del bpy.types.WindowManager.das
    del bpy.types.Scene.das
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
