# SPDX-License-Identifier: GPL-3.0-or-later
"""What a script can do with a scene, blocking until it is done: `api` is this module's list of names.

One file, though long: one function for each thing that a script can ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import bpy
import numpy as np

from ..client.client import DasClient
from ..client.take import Progress
from ..errors import SettingsError
from ..protocol.messages import Capabilities
from ..scene import camera as cameras
from ..scene import sequencer
from ..scene.appearance import shading_digest
from ..scene.colours import kept_look
from ..scene.layers import layer_apart, render_layer
from ..shot.findings import ShotReport
from ..shot.first_frame import FirstFrameWish
from ..shot.machine import check_online_access
from ..shot.pictures import FirstFrame
from ..shot.plan import BLACK, ShotPlan, check_detail, check_every, check_frames, has_sky
from ..shot.resolved import ResolvedSettings
from ..shot.scene_keys import KeyState, key_states, with_frames
from ..shot.scene_shot import check_size, shot_frames
from ..shot.settings import check_loras, chosen_keys, keys_of_camera, parse_speed, resolve_settings
from ..shot.shot_folder import shot_folder, this_file
from ..shot.tracked import ShotTracking, check_in_view, shot_from_geometry
from ..take import picture_recipes, run
from ..take.cache import Take, TakeRequest
from ..take.drive import Recipe, finish
from ..take.source import Source
from ..tracking.geometry import GeometrySequence, TrackingVideo
from ..tracking.video import render_tracking_video
from . import of_scene, training_clip
from .sources import Step, owner_of, source_of

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
    background: str = BLACK,
    should_stop: ShouldStop | None = None,
) -> TrackingVideo:
    """The 3D tracking video of ``scene`` as its own camera sees it; no server, no model.

    ``frames``: any increasing list of frame numbers, the first of them is the first frame; None for the scene's range
    (or its shot range).  ``size`` (width, height) in pixels; None for the render size.  ``step(frame)`` gives an
    evaluated depsgraph, for callers inside a render; outside of one a Blender with a window exports a copy of the file
    in a child Blender, one without a window steps the scene inside a render and leaves it as it was found.
    ``progress(done, of)`` counts exported, then rasterised frames (``of`` is twice the number of frames).
    ``background``: "black", or "sky" to track what no surface covers as infinitely far away.

    Gives a `TrackingVideo`: ``.video`` [T,H,W,3] u8, ``.coverage`` [T,H,W] bool, ``.first_frame_xy`` [T,H,W,2] f32 in
    pixels (NaN where there is none), ``.first_frame_visible`` [T,H,W] bool.

    Raises `SceneError` (no camera, a panoramic camera, nothing in view), `SettingsError` (frames, size,
    background), `JobCancelled`.
    """
    frames = check_frames(shot_frames(scene) if frames is None else frames)
    width, height = check_size(cameras.render_size(scene) if size is None else size)
    sky = has_sky(background)
    with exported_geometry(scene, frames, (width, height), step, _part(progress, 0, 2), should_stop) as geometry:
        said = _part(progress, 1, 2)
        tracking = render_tracking_video(geometry, sky=sky, progress=said, should_stop=should_stop)
    check_in_view(tracking)
    return tracking


# ── The stations of a take ──────────────────────────────────────────────────────────────────────────────────────────


def server_capabilities(server: str, *, timeout_s: float = 10.0, should_stop: ShouldStop | None = None) -> Capabilities:
    """Ask the server at ``server`` what it offers; on another machine only while Blender is online.

    Raises `SettingsError`, `TransportError`, `VersionMismatch`.
    """
    check_online_access(server)
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

    Arguments and errors as in `export_tracking`.
    """
    started = time.perf_counter()
    with exported_geometry(scene, plan.frames, plan.render_size, step, _part(progress, 0, 2), should_stop) as geometry:
        exported = time.perf_counter() - started
        shot = shot_from_geometry(geometry, plan, progress=_part(progress, 1, 2), should_stop=should_stop)
        if shot.geometry is not None:  # it outlives its source
            changes = None if geometry.changes is None else geometry.changes.in_memory()
            shot = replace(shot, geometry=replace(geometry, vertices=np.asarray(geometry.vertices), changes=changes))
    return replace(shot, timings={"export": exported, **shot.timings})


def ensure_first_frame(
    scene,
    shot: ShotTracking,
    *,
    folder: Path,
    path: str | Path = "",
    engine: str = "CYCLES",
    samples: int = 32,
    force: bool = False,
    not_before: float = 0.0,
    view_layer: str = "",
    progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> FirstFrame:
    """The shot's first frame as it was read or rendered (``.png``, its bytes; ``.path``); blocks.

    ``folder``: the shot's, see `shot_folder`.  ``path``: a file of the user's own.  ``engine``: CYCLES, EEVEE or
    WORKBENCH.  ``view_layer`` "": the first one that renders.  ``progress(done, of)`` counts samples.
    ``force`` renders it whatever is there.  A file that its user painted over is used as it is, for the frame that it
    was painted for; ``force`` puts it aside under a numbered name.  ``not_before``: one that was rendered earlier
    (seconds since the epoch) is rendered anew.

    Raises `FirstFrameError`, `SettingsError`, `JobCancelled`.
    """
    layer = view_layer or render_layer(scene).name
    wish = FirstFrameWish(
        folder=Path(folder),
        path=str(path),
        image="",
        engine=engine,
        samples=samples,
        look=kept_look(scene),
        layer_apart=layer_apart(scene, layer),
        owner=owner_of(scene, folder),
        file=this_file(),
        blender=bpy.app.version_string,
        again=force,
        not_before=not_before,
        shading=shading_digest(scene.original, scene.original.view_layers[layer]),
    )

    def told(event: Progress, _words: str = "") -> None:
        if progress is not None and event.of:
            progress(event.step, event.of)

    source = source_of(scene, layer)
    return finish(_closing(source, picture_recipes.first_frame(wish, shot, source, told)), should_stop=should_stop)


def run_take(
    request: TakeRequest,
    server: str,
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: ShouldStop | None = None,
    timeout_s: float = 30.0,
) -> Take:
    """Find the take of ``request`` or have ``server`` make it; blocks, any thread; see `take.run.run_take`.

    A server on another machine needs Blender's online access.  Raises `SettingsError`, too.
    """
    check_online_access(server)
    return run.run_take(request, server, on_event=on_event, should_stop=should_stop, timeout_s=timeout_s)


# ── All of it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def render_take(
    scene,
    *,
    server: str | None = None,
    frames: Sequence[int] | None = None,
    folder: str | Path | None = None,
    step: Step | None = None,
    on_event: Callable[[object], None] | None = None,
    on_report: Callable[[ShotReport], None] | None = None,
    should_stop: ShouldStop | None = None,
    **settings,
) -> Take:
    """Render the scene's shot as a take; blocks until every frame is on disk.

    ``server``: its address.  ``frames`` as in `export_tracking`.  ``folder``: the cache.  ``settings``: ``prompt``,
    ``negative_prompt``, ``seed``, ``num_inference_steps``, ``guidance_scale``, ``tracking_range``, ``background``
    (of the tracking video: "black" or "sky"), ``compose`` (keep
    the key pictures' detail: True, False, or "fine" for light and tone of the model), ``model_frames_every`` (of so
    many frames the model makes one; 0 or "auto": as its own frame rate says),
    ``key_pictures`` (Blender frames besides the first, or "auto"), ``loras`` ({name: weight}), ``speed`` ("exact",
    "fast", "preview"), ``model``, ``size`` (width, height), ``first_frame`` (a file), ``first_frame_engine``,
    ``first_frame_samples``,
    ``new_first_frame`` (render it anew), ``anew`` (make the take although a finished one is there, which stays until
    the new one is whole), ``timeout_s``.
    What is not given comes from the environment, the scene, the preferences and the defaults, in this order
    (`properties`).

    ``on_event`` gets `client.take` events: `Progress` (``stage``, ``step``, ``of``, ``fraction`` of the whole take),
    `Preview`, `Log`, `Silence`.  ``on_report`` gets what `check_shot` would say of the shot, looked at in fewer frames,
    before any job.  A take that is in the cache, whole and undamaged, is returned as it is (``.cached``), also while no
    server answers.

    Gives a `Take`: ``.frames`` (PNGs at the render size), ``.model_frames``, ``.tracking_frames``, ``.first_frame``,
    ``.report`` (what decided the pixels, ``findings``, what the server said), ``.timings`` (seconds per station).

    Raises `SettingsError` (also for a setting that does not exist), `SceneError`, `FirstFrameError`, and what
    `client.take.run_job` raises: `TransportError`, `JobError`, `ModelError`.
    """
    chosen = replace(_chosen_settings(scene, server, frames, folder, settings), part=None)
    recipe = of_scene.take(scene, chosen, step, on_event=on_event, on_report=on_report, server_named=server is not None)
    return finish(recipe, should_stop=should_stop).take


def check_shot(
    scene,
    *,
    server: str | None = None,
    folder: str | Path | None = None,
    should_stop: ShouldStop | None = None,
    **settings,
) -> ShotReport:
    """All that is to be known of the shot before it costs time on a GPU: ``.findings`` (`shot.findings.Finding`), the
    gravest first, ``.curves`` over ``.frames``, ``.exit_code``; blocks, asks no server.

    Nothing that a render would be refused for is raised: it is in the list.  The arguments as in `render_take`.  Raises
    `SettingsError` and `JobCancelled`.
    """
    chosen = _chosen_settings(scene, server, None, folder, settings)
    return finish(of_scene.checked_shot(scene, chosen), should_stop=should_stop)


def key_pictures(
    scene,
    *,
    suggest: bool = False,
    render: bool = False,
    server: str | None = None,
    folder: str | Path | None = None,
    should_stop: ShouldStop | None = None,
    **settings,
) -> list[KeyState]:
    """The scene's first frame and key pictures as `shot.scene_keys.KeyState`: ``.frame``, ``.path``, ``.origin``,
    ``.state``; blocks.

    ``suggest``: with the fewest besides those that the shot needs (the scene's list is not changed).  ``render``: those
    that are missing or stale are rendered first.  The other arguments and errors as in `render_take`; ``key_pictures``:
    Blender frames instead of the scene's list.
    """
    chosen = _chosen_settings(scene, server, None, folder, settings)
    if suggest:
        found = finish(of_scene.suggested_keys(scene, chosen), should_stop=should_stop)
        chosen = replace(chosen, key_pictures=with_frames(chosen, found.frames))
    if render:
        finish(of_scene.rendered_keys(scene, chosen), should_stop=should_stop)
    return key_states(scene, chosen, owner_of(scene, shot_folder(scene, chosen.cache_folder)))


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

    Gives a `take.clips.DatasetClip`; `take.clip_folder` tells the layout.  Nothing of a clip that fails is listed.

    Raises `SettingsError` (a name that is taken, a caption of several lines, an odd size without ``lossless``),
    `SceneError`, `StorageError`, `JobCancelled`.
    """
    chosen = {"size": None if size is None else check_size(size), "first_frame_engine": engine}
    settings = _chosen_settings(scene, None, frames, None, {**chosen, "first_frame_samples": samples})
    folder = Path(bpy.path.abspath(str(folder)))
    request = training_clip.clip_request(scene, settings, folder, name=name, caption=caption, lossless=lossless)
    return finish(training_clip.export_clip(scene, request, on_event=on_event), should_stop=should_stop)


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
    known = {field.name for field in fields(ResolvedSettings)} - {"server", "frames", "cache_folder", "view"}
    unknown = sorted(set(named) - known)
    if unknown:
        offered = sorted({_name_for_callers(name) for name in known})
        raise SettingsError(f"There is no setting {unknown[0]!r}; there are {', '.join(offered)}.", field=unknown[0])
    if server:
        named["server"] = server
    if frames is not None:
        named["frames"] = check_frames(frames)
    resolved = resolve_settings(scene)
    if "key_pictures" in named:
        shot = named.get("frames", resolved.frames)
        named["key_pictures"] = chosen_keys(named["key_pictures"], scene.das, shot)
    keys, camera = named.get("key_pictures", resolved.key_pictures), named.get("camera", resolved.camera)
    named["key_pictures"] = keys_of_camera(keys, scene, camera, named.get("frames", resolved.frames))
    named |= {"prompts_at": ()} if "prompt" in named else {}  # it is that of the whole shot
    if "compose" in named:
        named["compose"] = None if named["compose"] == "auto" else check_detail(named["compose"])
    if "background" in named:
        has_sky(named["background"])
    if "model_frames_every" in named:
        every = named["model_frames_every"]
        named["model_frames_every"] = 0 if every == "auto" else check_every(every)
    for name, check in (("loras", check_loras), ("speed", parse_speed)):
        if name in named:
            named[name] = check(named[name])
    if folder is not None:
        named["cache_folder"] = Path(bpy.path.abspath(str(folder))).resolve()
    return replace(resolved, **named)


def _name_for_callers(name: str) -> str:
    return next((outside for outside, inside in _NAMES_IN_SETTINGS.items() if inside == name), name)


@contextmanager
def exported_geometry(
    scene,
    frames: tuple[int, ...],
    size: tuple[int, int],
    step: Step | None,
    progress: OnProgress | None,
    should_stop: ShouldStop | None,
) -> Iterator[GeometrySequence]:
    """Station 1, with the caller's steps or a source's own; the geometry is there until the end of the block."""
    cameras.active_camera(scene, frames[0])  # the commonest mistake is told before any frame is evaluated
    source = source_of(scene, render_layer(scene).name, step)

    def told(event: Progress, _words: str = "") -> None:
        if progress is not None:
            progress(event.step + 1, event.of)

    try:
        yield finish(source.export(frames, size, told), should_stop=should_stop)
    finally:
        source.close()


def _closing(source: Source, recipe: Recipe) -> Recipe:
    """``recipe``, and ``source`` closed at its end."""
    try:
        return (yield from recipe)
    finally:
        source.close()


def _part(progress: OnProgress | None, index: int, of: int) -> OnProgress | None:
    """``progress`` of one of several stations that count the same frames."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, of * total)
