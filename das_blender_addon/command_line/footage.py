# SPDX-License-Identifier: GPL-3.0-or-later
"""``das plate|camera|move PICTURE``: a picture becomes a scene, which is saved, tracked or rendered."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..child.scratch import Scratch
from ..client.files import write_whole
from ..errors import SettingsError, StorageError
from ..footage.estimated import AUTO, is_asked
from ..footage.masks import is_file
from ..footage.paths import camera_path
from ..jobs import of_scene
from ..jobs.scripting import export_tracking
from ..jobs.sources import source_of
from ..protocol.png import encode_png
from ..scene.layers import render_layer
from ..shot.settings import parse_size, resolve_settings
from ..shot.shot_folder import shot_folder
from ..staging.importing import PLANE, PlateWish, import_picture
from ..staging.motion import key_camera, key_thing, path_of_file
from ..staging.stage import Stage
from ..take import drive
from ..take.movie import movie
from .footage_words import span
from .places import blend_file, check_cache, copy_frames, output_folder
from .voice import Voice

TRACKING, MOVIE = "tracking.npz", "tracking.mp4"
THING = "Thing"


@dataclass(frozen=True)
class _Places:
    """Where results go: None for nowhere."""

    output: Path | None
    blend: Path | None


def plate(scene, arguments, voice: Voice, should_stop) -> int:
    """Make a scene of a picture, with its lens and depth, and save it; needs no server."""
    places = _places(arguments)
    if places.blend is None:
        raise SettingsError("das plate makes a file: name it with --save SHOT.blend.", field="save")
    masks = {THING if not number else f"{THING} {number + 1}": words for number, words in enumerate(arguments.mask)}
    stage = _staged(arguments, voice, masks, should_stop)
    return _finished(stage, places, arguments, voice, should_stop)


def camera(scene, arguments, voice: Voice, should_stop) -> int:
    """Move the camera through a picture: save the shot, track it, or render it as a take."""
    places = _places(arguments)
    stage = _staged(arguments, voice, {}, should_stop)
    _move_camera(stage, arguments)
    return _finished(stage, places, arguments, voice, should_stop)


def move(scene, arguments, voice: Voice, should_stop) -> int:
    """Move a thing that is in a picture, over the background behind it: save, track, or render the shot."""
    places = _places(arguments)
    start, end = span(arguments.over, arguments.count)
    if not arguments.scale > 0.0:
        raise SettingsError(f"--scale is {arguments.scale}; give a number above 0.", field="scale")
    stage = _staged(arguments, voice, {THING: arguments.mask}, should_stop)
    key_thing(
        stage.things[THING],
        by=arguments.by,
        rotate_degrees=arguments.rotate,
        scale=arguments.scale,
        frame_start=start,
        frame_end=end,
    )
    if arguments.path:
        _move_camera(stage, arguments)
    return _finished(stage, places, arguments, voice, should_stop)


def _places(arguments) -> _Places:
    """Looked at before any work begins.  Raises `SettingsError` where the results would go nowhere."""
    places = _Places(output_folder(arguments.output or "", "The frames"), blend_file(arguments.save))
    if arguments.path and not arguments.path.lower().endswith(".blend"):
        camera_path(arguments.path, max(arguments.count, 2), distance=1.0)
    if places == _Places(None, None):
        raise SettingsError(
            "The shot would go nowhere: name --output FOLDER, --save SHOT.blend, or both.", field="output"
        )
    if arguments.tracking_only and places.output is None:
        raise SettingsError("--tracking-only writes into a folder: name it with --output.", field="output")
    return places


def _staged(arguments, voice: Voice, masks: dict[str, str], should_stop) -> Stage:
    """The picture as the only scene of the file."""
    wish = PlateWish(
        picture=_file(arguments.picture),
        depth=arguments.depth if arguments.depth in (PLANE, AUTO) else os.fspath(_file(arguments.depth)),
        depth_kind=arguments.depth_kind,
        depth_scale=arguments.depth_scale,
        lens_mm=arguments.lens,
        masks={name: os.fspath(_file(words)) if is_file(words) else words for name, words in masks.items()},
        **_server(arguments.depth, masks),
        should_stop=should_stop,
        horizon=arguments.horizon,
        eye_height=arguments.eye_height,
        wall=arguments.wall,
        folder=Path(os.path.realpath(arguments.plate)) if arguments.plate else None,
    )
    size = parse_size(arguments.DAS_SIZE or "")
    stage = import_picture(wish, size=size, num_frames=arguments.count, every=arguments.every)
    for note in stage.notes:
        voice.note(note)
    if bpy.context.window is not None:
        bpy.context.window.scene = stage.scene
    for other in [one for one in bpy.data.scenes if one != stage.scene]:
        bpy.data.scenes.remove(other)
    _keep_settings(stage.scene, arguments)
    return stage


def _server(depth: str, masks: dict[str, str]) -> dict:
    """The server that measures, as fields of a wish; none where nothing is to be measured."""
    if depth != AUTO and not any(is_asked(words) for words in masks.values()):
        return {}
    settings = resolve_settings(bpy.context.scene)
    return {"server": settings.server, "timeout_s": settings.timeout_s}


def _keep_settings(scene, arguments) -> None:
    """What was said of the shot goes into the file, too."""
    settings = resolve_settings(scene)
    for name in ("prompt", "negative_prompt", "model", "seed"):
        setattr(scene.das, name, getattr(settings, name))


def _move_camera(stage: Stage, arguments) -> None:
    made = stage.plate
    if arguments.path.lower().endswith(".blend"):
        path = path_of_file(_file(arguments.path), arguments.count)
    else:
        height, width = made.depth.shape
        middle = np.s_[height * 2 // 5 : -(-height * 3 // 5), width * 2 // 5 : -(-width * 3 // 5)]
        there = made.depth[middle][made.valid[middle]]
        distance = float(np.median(there if there.size else made.depth[made.valid]))
        path = camera_path(arguments.path, arguments.count, distance=distance, pitch_degrees=made.pitch_degrees)
    key_camera(stage.camera, path, stage.scene.frame_start)


def _finished(stage: Stage, places: _Places, arguments, voice: Voice, should_stop) -> int:
    scene, made = stage.scene, stage.plate
    told = {"size": made.size, "depth": made.source, "lens_mm": made.lens_mm}
    told |= {"vertices": stage.num_vertices, "sky": round(float(1.0 - made.valid.mean()), 4)}
    words = []
    if places.blend is not None:
        _save(places.blend)
        told["blend"] = places.blend
        words.append(f"the shot of {arguments.count} frames in {places.blend}")
    if places.output is not None and arguments.tracking_only:
        told["tracking"], unseen = _track(scene, places.output, voice, should_stop)
        told["unseen"] = [round(float(share), 4) for share in unseen]
        words.append(f"the tracking video of {arguments.count} frames in {told['tracking']}")
        words.append(f"up to {unseen.max():.1%} of a frame is not in the picture")
    elif places.output is not None:
        told |= _render(scene, places.output, voice, should_stop)
        words.append(f"{len(told['frames'])} frames in {places.output}")
    voice.result("\n".join(words), **told)
    return 0


def _track(scene, output: Path, voice: Voice, should_stop) -> tuple[Path, np.ndarray]:
    """(the file, share of each frame that shows nothing of the first one)."""

    def progress(done: int, of: int) -> None:
        voice.status(drive.Status("exporting", "Tracking the shot", done / of))

    tracking = export_tracking(scene, progress=progress, should_stop=should_stop)
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays,
        video=tracking.video,
        first_frame_xy=tracking.first_frame_xy,
        visible=tracking.first_frame_visible,
    )
    write_whole(output / TRACKING, arrays.getvalue())
    _watch(scene, tracking.video, output / MOVIE, voice, should_stop)
    return output / TRACKING, 1.0 - tracking.first_frame_visible.mean(axis=(1, 2))


def _watch(scene, video: np.ndarray, movie_file: Path, voice: Voice, should_stop) -> None:
    """``video`` [T,H,W,3] u8 as a movie to look at; the exact values are in the arrays."""
    with ExitStack() as stack:
        scratch = Scratch("clip")
        stack.callback(scratch.cleanup)
        frames = [Path(scratch.name) / f"{number:04d}.png" for number in range(len(video))]
        for path, frame in zip(frames, video, strict=True):
            write_whole(path, encode_png(frame))
        source = source_of(scene, render_layer(scene).name)
        recipe = movie(frames, movie_file, scene.render.fps, scene.render.fps_base, source)
        drive.finish(recipe, on_status=voice.status, should_stop=should_stop)


def _render(scene, output: Path, voice: Voice, should_stop) -> dict:
    settings = resolve_settings(scene)
    check_cache(settings.cache_folder, shot_folder(scene, settings.cache_folder))
    taking = of_scene.take(scene, settings, on_report=voice.warnings)
    take = drive.finish(taking, on_status=voice.status, should_stop=should_stop).take
    frames = copy_frames(zip(settings.frames, take.frames, strict=True), output)
    told = {"frames": frames, "take": take.folder, "key": take.key}
    return told | {"first_frame": take.first_frame, "report": take.report}


def _save(file: Path) -> None:
    try:
        bpy.ops.wm.save_as_mainfile(filepath=os.fspath(file), compress=True)
    except RuntimeError as error:
        raise StorageError(f"{file} cannot be written ({str(error).strip()}).") from error


def _file(chosen: str) -> Path:
    return Path(os.path.realpath(bpy.path.abspath(chosen)))
