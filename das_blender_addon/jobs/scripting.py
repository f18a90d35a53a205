# SPDX-License-Identifier: GPL-3.0-or-later
"""What a script can do with a scene, blocking until it is done: `api` is this module's list of names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import bpy

from ..errors import SettingsError
from ..protocol.messages import Capabilities
from ..scene import camera as cameras
from ..scene import sequencer
from ..scene.export import export_geometry
from ..scene.stepping import stepping
from ..shot.first_frame import start_first_frame
from ..shot.plan import ShotPlan, ShotTracking, check_frames, check_in_view, shot_from_geometry
from ..shot.scene_shot import check_size, shot_frames
from ..shot.settings import ResolvedSettings, resolve_settings
from ..take import clips
from ..take.cache import Take
from ..take.drive import finish
from ..take.recipes import take as take_recipe
from ..tracking.geometry import GeometrySequence, TrackingVideo
from ..tracking.video import render_tracking_video

Step = Callable[[int], object]
OnProgress = Callable[[int, int], None]
ShouldStop = Callable[[], bool]


# ── Only the tracking video ─────────────────────────────────────────────────────────────────────────────────────────


def export_tracking(
    scene,
    *,
    frames: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    step: Step | None = None,
    progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> TrackingVideo:
    """The 3D tracking video of ``scene`` as its own camera sees it; no server, no model.

    ``frames``: any increasing list of frame numbers, the first of them is the first frame; None for the scene's range
    (or its shot range).  ``size`` (width, height) in pixels; None for the render size.  ``step(frame)`` gives an
    evaluated depsgraph, for callers inside a render; outside of one the scene is stepped and then left as it was
    found, frame, selection and all.
    ``progress(done, of)`` counts exported, then rasterised frames (``of`` is twice the number of frames).

    Gives a `TrackingVideo`: ``.video`` [T,H,W,3] u8, ``.coverage`` [T,H,W] bool, ``.first_frame_xy`` [T,H,W,2] f32 in
    pixels (NaN where there is none), ``.first_frame_visible`` [T,H,W] bool.

    Raises `SceneError` (no camera, a camera that is not perspective, nothing in view, topology that changes over time),
    `SettingsError` (frames, size), `JobCancelled`.
    """
    frames = check_frames(shot_frames(scene) if frames is None else frames)
    width, height = check_size(cameras.render_size(scene) if size is None else size)
    geometry = _export(scene, frames, (width, height), step, _part(progress, 0, 2), should_stop)
    tracking = render_tracking_video(geometry, progress=_part(progress, 1, 2), should_stop=should_stop)
    check_in_view(tracking)
    return tracking


# ── The stations of a take ──────────────────────────────────────────────────────────────────────────────────────────


def server_capabilities(server: str, *, timeout_s: float = 10.0, should_stop: ShouldStop | None = None) -> Capabilities:
    """Ask the server at ``server`` what it offers.  Needs no Blender.  Raises `TransportError`, `VersionMismatch`."""
    from .client.client import DasClient

    with DasClient(server, timeout_s=timeout_s) as client:
        return client.hello(should_stop=should_stop).capabilities


def export_shot(
    scene,
    plan: ShotPlan,
    *,
    step: Step | None = None,
    progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> ShotTracking:
    """The tracking video of a planned shot, seen by the overscanned camera at the model's size.

    Arguments and errors as in `export_tracking`.  A caller that must not block exports frame by frame with
    `export.GeometryExport` at ``plan.render_size`` and calls `shot_from_geometry` on a thread.
    """
    started = time.perf_counter()
    geometry = _export(scene, plan.frames, plan.render_size, step, _part(progress, 0, 2), should_stop)
    exported = time.perf_counter() - started
    shot = shot_from_geometry(geometry, plan, progress=_part(progress, 1, 2), should_stop=should_stop)
    return replace(shot, timings={"export": exported, **shot.timings})


def ensure_first_frame(
    scene,
    plan: ShotPlan,
    shot: ShotTracking,
    *,
    folder: Path,
    path: str | Path = "",
    engine: str = "CYCLES",
    samples: int = 32,
    force: bool = False,
    progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """The PNG of the shot's first frame, rendered by a child Blender when it is missing or stale; blocks.

    ``folder``: the shot's, see `shot_folder`.  ``path``: a file of the user's own.  ``engine``: CYCLES, EEVEE or
    WORKBENCH.
    ``force`` renders it whatever is there.  A file that its user replaced or painted over is used as it is.

    Raises `FirstFrameError`, `SettingsError`, `JobCancelled`.  `start_first_frame` is the same in two steps.
    """
    found = start_first_frame(scene, shot, folder=folder, path=path, engine=engine, samples=samples, force=force)
    return found.wait(progress=progress, should_stop=should_stop)


# ── All of it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def render_take(
    scene,
    *,
    server: str | None = None,
    frames: Sequence[int] | None = None,
    folder: str | Path | None = None,
    step: Step | None = None,
    on_event: Callable[[object], None] | None = None,
    should_stop: ShouldStop | None = None,
    **settings,
) -> Take:
    """Render the scene's shot as a take; blocks until every frame is on disk.

    ``server``: its address.  ``frames`` as in `export_tracking`.  ``folder``: the cache.  ``settings``: ``prompt``,
    ``negative_prompt``, ``seed``, ``num_inference_steps``, ``guidance_scale``, ``tracking_range``, ``compose``,
    ``model``,
    ``size`` (width, height), ``first_frame`` (a file), ``first_frame_engine``, ``first_frame_samples``, ``timeout_s``.
    What is not given comes from the environment, the scene, the preferences and the defaults, in this order
    (`properties`).

    ``on_event`` gets `client.take` events: `Progress` (``stage``, ``step``, ``of``, ``fraction`` of the whole take),
    `Preview`, `Log`, `Silence`.  A take that is in the cache, whole and undamaged, is returned as it is (``.cached``),
    also while no server answers.

    Gives a `Take`: ``.frames`` (PNGs at the render size), ``.model_frames``, ``.tracking_frames``, ``.first_frame``,
    ``.report`` (what decided the pixels, what the server said), ``.timings`` (seconds per station, of its making).

    Raises `SettingsError` (also for a setting that does not exist), `SceneError`, `FirstFrameError`, and what
    `client.take.run_job` raises: `TransportError`, `JobError`, `ModelError`.
    """

    chosen = _chosen_settings(scene, server, frames, folder, settings)
    recipe = take_recipe(scene, chosen, step, on_event=on_event, server_named=server is not None)
    return finish(recipe, should_stop=should_stop).take


def add_to_sequencer(take: Take, scene=None, *, edit_scene=None):
    """Put ``take`` into a sequencer as an image strip and return the strip; seed, prompt and job id are on it.

    ``scene``: the one the take was rendered from (None: the active one).  ``edit_scene``: whose sequencer takes the
    strip; None for an edit scene of its own: strips in the rendered scene would keep Blender from calling any render
    engine.
    """

    return sequencer.add_take(take, scene or bpy.context.scene, edit_scene=edit_scene)


# ── Clips to train on ───────────────────────────────────────────────────────────────────────────────────────────────


def export_dataset(
    scene,
    folder: str | Path,
    *,
    name: str = "",
    caption: str = "",
    frames: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    lossless: bool = False,
    engine: str | None = None,
    samples: int | None = None,
    on_event: Callable[[object], None] | None = None,
    should_stop: ShouldStop | None = None,
):
    """Render the scene's shot and add it, with its exact tracking video, to the training clips in ``folder``; blocks.

    ``name`` "": one of file, scene and frames.  ``caption`` "": the scene's prompt.  ``frames`` as in
    `export_tracking`.  ``size`` (width, height) in pixels; None for the scene's model size, or the render size where
    that is AUTO.  ``lossless``: the frames as PNG files instead of H.264 videos.  ``engine`` CYCLES, EEVEE or
    WORKBENCH and ``samples``: None for those of the first frame.  ``on_event`` gets `client.take.Progress`.

    Gives a `clips.DatasetClip`; `dataset_folder` tells the layout.  Nothing of a clip that fails is listed.

    Raises `SettingsError` (a name that is taken, a caption of several lines, an odd size without ``lossless``),
    `SceneError`, `StorageError`, `JobCancelled`.
    """

    chosen = {"size": None if size is None else check_size(size), "first_frame_engine": engine}
    settings = _chosen_settings(scene, None, frames, None, {**chosen, "first_frame_samples": samples})
    folder = Path(bpy.path.abspath(str(folder)))
    request = clips.clip_request(scene, settings, folder, name=name, caption=caption, lossless=lossless)
    return finish(clips.export_clip(scene, request, on_event=on_event), should_stop=should_stop)


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_NAMES_IN_SETTINGS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "first_frame": "first_frame_path",
}


def _chosen_settings(scene, server, frames, folder, settings: dict):
    """`properties.resolve_settings`, and above it what the caller said."""

    if not hasattr(scene, "das"):
        raise SettingsError("The extension is not enabled, so scenes have no settings; enable it or call register().")
    named = {_NAMES_IN_SETTINGS.get(name, name): value for name, value in settings.items() if value is not None}
    known = {field.name for field in fields(ResolvedSettings)} - {"server", "frames", "cache_folder"}
    unknown = sorted(set(named) - known)
    if unknown:
        offered = sorted({_name_for_callers(name) for name in known})
        raise SettingsError(f"There is no setting {unknown[0]!r}; there are {', '.join(offered)}.", field=unknown[0])
    if server:
        named["server"] = server
    if frames is not None:
        named["frames"] = check_frames(frames)
    if folder is not None:
        named["cache_folder"] = Path(bpy.path.abspath(str(folder))).resolve()
    return replace(resolve_settings(scene), **named)


def _name_for_callers(name: str) -> str:
    return next((outside for outside, inside in _NAMES_IN_SETTINGS.items() if inside == name), name)


def _export(
    scene,
    frames: tuple[int, ...],
    size: tuple[int, int],
    step: Step | None,
    progress: OnProgress | None,
    should_stop: ShouldStop | None,
) -> GeometrySequence:
    """Station 1, with the caller's steps or our own."""
    cameras.active_camera(scene, frames[0])  # the commonest mistake is told before any frame is evaluated

    def walk(step: Step) -> GeometrySequence:
        return export_geometry(
            ((frame, step(frame)) for frame in frames),
            width=size[0],
            height=size[1],
            should_stop=should_stop,
            progress=progress,
            num_frames=len(frames),
        )

    if step is not None:
        return walk(step)
    with stepping(scene) as own_step:
        return walk(own_step)


def _part(progress: OnProgress | None, index: int, of: int) -> OnProgress | None:
    """``progress`` of one of several stations that count the same frames."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, of * total)
