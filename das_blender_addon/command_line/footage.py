# SPDX-License-Identifier: GPL-3.0-or-later
"""``das plate|camera|move|transfer``: a picture or clip becomes a scene, which is saved, tracked or rendered."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..child.scratch import Scratch
from ..client.files import write_whole
from ..errors import SettingsError, StorageError
from ..footage.alignment import read_alignment
from ..footage.clip import ClipPlate
from ..footage.estimated import AUTO, is_asked
from ..footage.lifting import camera_path_of
from ..footage.masks import is_file
from ..footage.paths import camera_path
from ..footage.plane import room_of
from ..footage.repainting import Repaint
from ..jobs import of_scene
from ..jobs.scripting import export_tracking
from ..jobs.sources import source_of
from ..protocol.png import encode_png
from ..scene.layers import render_layer
from ..shot.server_consent import check_server
from ..shot.settings import parse_size, resolve_settings
from ..shot.shot_folder import check_cache, shot_folder
from ..staging.camera_files import camera_of_file, check_camera_file, is_camera_file
from ..staging.clip_importing import BLENDER, ClipWish, import_clip, positions_folder
from ..staging.clip_source import is_footage
from ..staging.entry import positions_beside
from ..staging.importing import PLANE, PlateWish, import_picture
from ..staging.motion import key_camera, key_thing
from ..staging.stage import Stage, set_rate
from ..take import drive
from ..take.movie import movie
from .file import absolute
from .footage_words import LARGEST, NUM_FRAMES, span, three
from .places import blend_file, copy_frames, output_folder
from .voice import Voice

TRACKING, MOVIE = "tracking.npz", "tracking.mp4"
THING = "Thing"


@dataclass(frozen=True)
class _Places:
    """Where results go: None for nowhere."""

    output: Path | None
    blend: Path | None


@dataclass(frozen=True)
class StagedShot:
    """A staged shot of ``count`` frames; ``path`` [T,4,4]: its camera before anything is added.  ``clip``: its plate,
    None of a picture.
    """

    stage: Stage
    count: int
    path: np.ndarray
    clip: ClipPlate | None = None


def plate(scene, arguments, voice: Voice, should_stop) -> int:
    """Make a scene of a picture or clip, with its lens and depth, and save it; needs no server."""
    places = _places(arguments)
    if places.blend is None:
        raise SettingsError("das plate makes a file: name it with --save SHOT.blend.", field="save")
    masks = {THING if not number else f"{THING} {number + 1}": words for number, words in enumerate(arguments.mask)}
    with staged(arguments, voice, masks, places.blend, should_stop) as made:
        return _finished(made, places, arguments, voice, should_stop)


def camera(scene, arguments, voice: Voice, should_stop) -> int:
    """Move the camera through a picture or clip: save the shot, track it, or render it as a take."""
    places = _places(arguments)
    if not arguments.path.strip(" ;"):
        raise SettingsError("--path is empty; write dolly:0 for a camera that stays as it is.", field="path")
    with staged(arguments, voice, {}, places.blend, should_stop) as made:
        _move_camera(made, arguments, voice)
        return _finished(made, places, arguments, voice, should_stop)


def move(scene, arguments, voice: Voice, should_stop) -> int:
    """Move a thing of a picture or clip, over the background behind it: save, track, or render the shot."""
    places = _places(arguments)
    if not 0.0 < arguments.scale <= LARGEST:
        raise SettingsError(f"--scale is {arguments.scale}; give a number above 0, up to {LARGEST:g}.", field="scale")
    by, turn = three(arguments.by, "--by"), three(arguments.rotate, "--rotate")
    if arguments.count is not None or not is_footage(absolute(arguments.picture)):
        span(arguments.over, NUM_FRAMES if arguments.count is None else arguments.count)
    with staged(arguments, voice, {THING: arguments.mask}, places.blend, should_stop) as made:
        start, end = span(arguments.over, made.count)
        key_thing(
            made.stage.things[THING],
            by=by,
            rotate_degrees=turn,
            scale=arguments.scale,
            frame_start=start,
            frame_end=end,
        )
        if arguments.path:
            _move_camera(made, arguments, voice)
        return _finished(made, places, arguments, voice, should_stop)


def transfer(scene, arguments, voice: Voice, should_stop) -> int:
    """Give the motion of a clip to its first picture in another style, or to another one: save, track, or render."""
    places = _places(arguments)
    if not is_footage(absolute(arguments.picture)):
        raise SettingsError(
            f"{arguments.picture} is no clip, and motion is transferred from one; name a movie, or a folder of "
            "pictures.",
            field="clip",
        )
    with staged(arguments, voice, {}, places.blend, should_stop) as made:
        if made.clip.tracks is None:
            raise SettingsError(
                "Motion is transferred along tracks, and none are known of this clip; say --tracks auto (a server's), "
                "--tracks blender, or a file of them.",
                field="tracks",
            )
        return _finished(made, places, arguments, voice, should_stop)


def _places(arguments) -> _Places:
    """Looked at before any work begins.  Raises `SettingsError` where the results would go nowhere."""
    places = _Places(output_folder(arguments.output or "", "The frames"), blend_file(arguments.save))
    if is_camera_file(arguments.path):
        check_camera_file(absolute(arguments.path))
    elif arguments.path:
        camera_path(arguments.path, max(arguments.count or NUM_FRAMES, 2), distance=1.0)
    if places == _Places(None, None):
        raise SettingsError(
            "The shot would go nowhere: name --output FOLDER, --save SHOT.blend, or both.", field="output"
        )
    if arguments.tracking_only and places.output is None:
        raise SettingsError("--tracking-only writes into a folder: name it with --output.", field="output")
    return places


@contextmanager
def staged(arguments, voice: Voice, masks: dict[str, str], blend: Path | None, should_stop) -> Iterator[StagedShot]:
    """The picture or clip as the only scene of the file, which is going to be ``blend`` (None: nowhere)."""
    masks = {name: os.fspath(absolute(words)) if is_file(words) else words for name, words in masks.items()}
    with ExitStack() as stack:
        if is_footage(absolute(arguments.picture)):
            made = _staged_clip(arguments, masks, blend, stack, should_stop)
        else:
            made = _staged_picture(arguments, masks, should_stop)
        stage = made.stage
        for note in stage.notes:
            voice.note(note)
        if bpy.context.window is not None:
            bpy.context.window.scene = stage.scene
        for other in [one for one in bpy.data.scenes if one != stage.scene]:
            bpy.data.scenes.remove(other)
        _keep_settings(stage.scene, arguments)
        yield made


def _staged_picture(arguments, masks: dict[str, str], should_stop) -> StagedShot:
    for value, flag in ((arguments.tracks, "--tracks"), (arguments.clip_camera, "--clip-camera")):
        if value:
            raise SettingsError(f"{arguments.picture} is a picture, and {flag} is of a clip; leave it out.")
    wish = PlateWish(
        picture=absolute(arguments.picture),
        depth=_depth(arguments) or PLANE,
        masks=masks,
        should_stop=should_stop,
        **_server(arguments.depth == AUTO, masks),
        **_known(arguments),
    )
    count = NUM_FRAMES if arguments.count is None else arguments.count
    every = 1 if arguments.every is None else arguments.every
    stage = import_picture(wish, size=parse_size(arguments.DAS_SIZE or ""), num_frames=count, every=every)
    if arguments.fps:
        set_rate(stage.scene, arguments.fps)
    return StagedShot(stage, count, np.repeat(np.eye(4)[None], count, axis=0))


def _staged_clip(arguments, masks: dict[str, str], blend: Path | None, stack: ExitStack, should_stop) -> StagedShot:
    if arguments.count is not None and arguments.count < 1 or arguments.every is not None and arguments.every < 1:
        raise SettingsError("The frames of a shot and the pixels of a quad are 1 at least.", field="frames")
    wish = clip_wish(arguments, masks)
    if blend is not None:
        folder = positions_folder(blend)
    else:
        scratch = Scratch("clip")
        stack.callback(scratch.cleanup)
        folder = Path(scratch.name)
    stage, clip = import_clip(
        wish,
        folder=folder,
        size=parse_size(arguments.DAS_SIZE or ""),
        every=arguments.every or 0,
        first_picture=absolute(arguments.first_picture) if arguments.first_picture else None,
        repaint=_repaint(arguments),
        alignment=read_alignment(arguments.align),
        should_stop=should_stop,
    )
    return StagedShot(stage, len(clip), camera_path_of(clip), clip)


def clip_wish(arguments, masks: dict[str, str]) -> ClipWish:
    """What was said of a clip."""
    tracks = arguments.tracks if arguments.tracks in ("", AUTO, BLENDER) else os.fspath(absolute(arguments.tracks))
    return ClipWish(
        clip=absolute(arguments.picture),
        first=arguments.first,
        num_frames=arguments.count or 0,
        fps=arguments.fps,
        depth=_depth(arguments),
        camera=arguments.clip_camera,
        tracks=tracks,
        **_server(AUTO in (tracks, arguments.depth) or arguments.repaint is not None, masks),
        masks=masks,
        **_known(arguments),
    )


def _repaint(arguments) -> Repaint | None:
    if arguments.repaint is None:
        return None
    settings = resolve_settings(bpy.context.scene)
    return Repaint(arguments.repaint, settings.negative_prompt, settings.seed)


def _depth(arguments) -> str:
    return arguments.depth if arguments.depth in ("", PLANE, AUTO) else os.fspath(absolute(arguments.depth))


def _server(asks: bool, masks: dict[str, str]) -> dict:
    """The server that measures, as fields of a wish; none where nothing is to be measured."""
    if not asks and not any(is_asked(words) for words in masks.values()):
        return {}
    settings = resolve_settings(bpy.context.scene)
    check_server(bpy.context.scene, settings.server)
    return {"server": settings.server, "timeout_s": settings.timeout_s}


def _known(arguments) -> dict:
    """What a picture and a clip have in common."""
    return {
        "depth_kind": arguments.depth_kind,
        "depth_scale": arguments.depth_scale,
        "lens_mm": arguments.lens,
        "room": room_of(arguments),
        "folder": Path(os.path.realpath(arguments.plate)) if arguments.plate else None,
    }


def _keep_settings(scene, arguments) -> None:
    """What was said of the shot goes into the file, too."""
    settings = resolve_settings(scene)
    for name in ("prompt", "negative_prompt", "model", "seed"):
        setattr(scene.das, name, getattr(settings, name))


def _move_camera(made: StagedShot, arguments, voice: Voice) -> None:
    stage, seen = made.stage, made.stage.plate
    if is_camera_file(arguments.path):
        render = stage.scene.render
        is_free = made.clip is None and not arguments.fps
        found = camera_of_file(absolute(arguments.path), made.count, render.fps / render.fps_base, is_free=is_free)
        path = found.poses
        set_rate(stage.scene, found.fps)
        for note in found.notes:
            voice.note(note)
    else:
        height, width = seen.depth.shape
        middle = np.s_[height * 2 // 5 : -(-height * 3 // 5), width * 2 // 5 : -(-width * 3 // 5)]
        there = seen.depth[middle][seen.valid[middle]]
        distance = float(np.median(there if there.size else seen.depth[seen.valid]))
        path = camera_path(arguments.path, made.count, distance=distance, pitch_degrees=seen.pitch_degrees)
    stage.camera.animation_data_clear()
    key_camera(stage.camera, made.path @ path, stage.scene.frame_start)


def _finished(made: StagedShot, places: _Places, arguments, voice: Voice, should_stop) -> int:
    stage, scene, seen, count = made.stage, made.stage.scene, made.stage.plate, made.count
    told = {"size": seen.size, "depth": seen.source, "lens_mm": seen.lens_mm, "count": count}
    told |= {"vertices": stage.num_vertices, "sky": round(float(1.0 - seen.valid.mean()), 4)}
    if made.clip is not None:
        told |= _told_of_clip(made.clip)
    words = []
    if places.blend is not None:
        _save(places.blend)
        if positions_beside(scene, places.blend):
            _save(places.blend)
        told["blend"] = places.blend
        words.append(f"the shot of {count} frames in {places.blend}")
    if places.output is not None and arguments.tracking_only:
        told["tracking"], unseen = _track(scene, places.output, voice, should_stop)
        told["unseen"] = [round(float(share), 4) for share in unseen]
        words.append(f"the tracking video of {count} frames in {told['tracking']}")
        words.append(f"up to {unseen.max():.1%} of a frame is not in the picture")
    elif places.output is not None:
        told |= _render(scene, places.output, voice, should_stop)
        words.append(f"{len(told['frames'])} frames in {places.output}")
    voice.result("\n".join(words), **told)
    return 0


def _told_of_clip(clip: ClipPlate) -> dict:
    tracks = 0 if clip.tracks is None else clip.tracks.shape[1]
    followed = None if clip.visible is None else round(float(clip.visible[-1].mean()), 4)
    return {"tracks": tracks, "followed": followed, "camera": "keep" if clip.cameras is None else "solve"}


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
