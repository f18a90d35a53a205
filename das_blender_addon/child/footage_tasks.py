# SPDX-License-Identifier: GPL-3.0-or-later
"""What a child Blender does with footage: the frames of a movie as pictures, and the camera of a clip, found by
Blender's own tracker and solver.
"""

from __future__ import annotations

import os
from pathlib import Path

import bpy
import numpy as np

from .. import compat
from ..errors import FirstFrameError, SceneError
from ..footage.epipolar import moving_points
from ..scene.colours import show_plain

FEWEST = 8
"""Features in common that the solver needs; with fewer it gives no answer, or any."""
ENOUGH = 120
"""Features that are looked for in a frame."""
FAINT = 0.001
"""How little a feature may stand out: wrong ones are found out, missing ones are not."""
ROUNDS = 3
GOOD_PX, WORST_PX = 0.6, 5.0
"""A camera that explains its features to so many pixels is taken at once, and not at all beyond."""
MOST_TURN_DEGREES, LEAP = 20.0, 30.0
"""From a frame to the next a camera turns by less, and goes less than this many times its usual step."""
WORST, FLOOR_PX = 2.5, 0.5
"""A feature whose error is this many times the median is no part of what stands still."""
REDETECT = 12
"""Frames after which features are looked for again: what left the picture is made up for."""


def movie_facts(request: dict, say, check_stop) -> dict:
    """Size, frames and frames a second of the movie ``request["movie"]``."""
    _empty_file()
    clip = _loaded(request["movie"])
    return {"size": list(clip.size), "count": clip.frame_duration, "fps": clip.fps}


def unpack_movie(request: dict, say, check_stop) -> dict:
    """The frames ``request["numbers"]`` (from 1) of ``"movie"`` as PNG files in ``"folder"``, named by their numbers in
    seven digits.
    """
    _empty_file()
    clip = _loaded(request["movie"])
    scene = bpy.data.scenes.new("Frames")
    render = scene.render
    render.resolution_x, render.resolution_y = clip.size
    render.resolution_percentage = 100
    render.fps, render.fps_base = max(1, round(clip.fps)), max(1, round(clip.fps)) / clip.fps
    show_plain(scene)  # the movie's own bytes
    strip = compat.strips(scene).new_movie(
        name="movie", filepath=request["movie"], channel=1, frame_start=1, fit_method="ORIGINAL"
    )
    strip.colorspace_settings.name = "sRGB"
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5.0 and newer
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"
    settings.compression, render.use_file_extension = 15, True
    render.filepath = os.fspath(Path(request["folder"]) / "#######")
    for first, last in _runs(request["numbers"]):
        check_stop()
        scene.frame_start, scene.frame_end = first, last
        bpy.ops.render.render(animation=True, scene=scene.name)
    return {}


def solve_clip(request: dict, say, check_stop) -> dict:
    """Find the features of the pictures ``request["frames"]`` (files of one folder, in order), follow them, and
    where ``"solve"`` says so, the camera of a lens of ``"lens_mm"`` for a sensor of ``"sensor_mm"`` across the picture.

    Writes ``"output"``, an NPZ: ``tracks`` f32 [T,N,2] (pixels), ``visible`` bool [T,N]; ``cameras`` f64 [T,4,4] and
    ``error_px`` of the solver.  Raises `SceneError`: too few features, or no camera that explains them.
    """
    _empty_file()
    clip = _loaded(request["frames"][0])
    count = len(request["frames"])
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, count
    tracking = clip.tracking
    tracking.camera.units = "MILLIMETERS"
    tracking.camera.sensor_width, tracking.camera.focal_length = request["sensor_mm"], request["lens_mm"]
    area = bpy.context.window.screen.areas[0]
    area.type = "CLIP_EDITOR"
    space = area.spaces.active
    space.clip, space.mode = clip, "TRACKING"
    region = next(region for region in area.regions if region.type == "WINDOW")
    place = {"window": bpy.context.window, "screen": bpy.context.window.screen, "area": area, "region": region}
    with bpy.context.temp_override(**place, space_data=space, scene=scene):
        _track(scene, space, clip, count, say, check_stop)
        tracks, visible = _tracks(clip, count)  # also of what the solver leaves out
        found = _solved(clip, count, check_stop) if request["solve"] else {}
    np.savez(request["output"], tracks=tracks, visible=visible, **found)
    return {"features": tracks.shape[1]}


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """The (first, last) of ``numbers`` that follow one another."""
    wanted = np.unique(numbers)
    starts = np.flatnonzero(np.r_[True, np.diff(wanted) > 1])
    ends = np.r_[starts[1:] - 1, len(wanted) - 1]
    return [(int(wanted[start]), int(wanted[end])) for start, end in zip(starts, ends, strict=True)]


def _empty_file() -> None:
    bpy.ops.wm.read_homefile(use_factory_startup=True)  # with its windows: the tracker wants an editor


def _loaded(path: str):
    try:
        clip = bpy.data.movieclips.load(path)
    except RuntimeError as error:
        raise FirstFrameError(f"The clip {path} cannot be read as a movie; choose another.") from error
    if not all(clip.size) or not clip.frame_duration:
        raise FirstFrameError(f"The clip {path} cannot be read as a movie; choose another.")
    return clip


def _track(scene, space, clip, count: int, say, check_stop) -> None:
    """Features of the first frame, and of later ones where too few are left, both ways."""
    width, height = clip.size
    settings = clip.tracking.settings
    small = min(width, height)
    settings.default_pattern_size = int(np.clip(small // 20, 11, 31))
    settings.default_search_size = int(np.clip(small // 6, 31, 121))
    settings.default_margin = 2
    settings.default_correlation_min = 0.85
    distance = max(6, int(np.sqrt(width * height / ENOUGH) * 0.6))
    starts = [1, *(number for number in range(1 + REDETECT, count - REDETECT // 2, REDETECT))]
    for done, start in enumerate(starts):
        check_stop()
        say(done=done, of=len(starts))
        before = {track.as_pointer() for track in clip.tracking.tracks}
        scene.frame_set(start)
        space.clip_user.frame_current = start
        bpy.ops.clip.select_all(action="DESELECT")
        margin = settings.default_pattern_size // 2 + 2
        bpy.ops.clip.detect_features(threshold=FAINT, min_distance=distance, margin=margin)
        _drop_doubles(clip, before, start, distance)
        for track in clip.tracking.tracks:
            track.select = track.as_pointer() not in before
        bpy.ops.clip.track_markers(backwards=False, sequence=True)
        if start > 1:
            scene.frame_set(start)
            space.clip_user.frame_current = start
            bpy.ops.clip.track_markers(backwards=True, sequence=True)


def _drop_doubles(clip, before: set, frame: int, distance: float) -> None:
    """New features where one is followed already go."""
    size = np.array(clip.size)
    old = [_place(track, frame) for track in clip.tracking.tracks if track.as_pointer() in before]
    taken = np.array([place for place in old if place is not None]).reshape(-1, 2) * size
    doubles = []
    for track in clip.tracking.tracks:
        place = _place(track, frame)
        if track.as_pointer() not in before and place is not None and len(taken):
            if np.linalg.norm(taken - place * size, axis=1).min() < distance:
                doubles.append(track)
    _delete(clip, doubles)


def _place(track, frame: int) -> np.ndarray | None:
    marker = track.markers.find_frame(frame, exact=True)
    return None if marker is None or marker.mute else np.array(marker.co)


def _delete(clip, tracks: list) -> None:
    if not tracks:
        return
    gone = {track.as_pointer() for track in tracks}
    for track in clip.tracking.tracks:
        track.select = track.as_pointer() in gone
    bpy.ops.clip.delete_track()


def _solved(clip, count: int, check_stop) -> dict:
    """The camera, without what moves by itself."""
    tracking = clip.tracking
    tracks, visible = _tracks(clip, count)
    moves = moving_points(tracks, visible, tuple(clip.size))
    kept = [track.name for track, one in zip(tracking.tracks, moves, strict=True) if not one]
    if len(kept) >= FEWEST:
        _delete(clip, [track for track in tracking.tracks if track.name not in set(kept)])
    best = None
    for keyframes in (None, (1, count), (1, max(count * 2 // 3, 2)), (max(count // 3, 1), count)):
        check_stop()
        found = _attempt(clip, count, keyframes)
        if best is None or found["error_px"] < best["error_px"]:
            best = found
        if best["error_px"] <= GOOD_PX:
            break
    if not best["error_px"] < WORST_PX:
        raise SceneError(_too_few(len(kept)))
    found = _attempt(clip, count, best["keyframes"])
    for _ in range(ROUNDS):
        errors = {track.name: track.average_error for track in tracking.tracks if track.has_bundle}
        limit = max(WORST * float(np.median(list(errors.values()))), FLOOR_PX)
        wrong = [track for track in tracking.tracks if errors.get(track.name, 0.0) > limit]
        if not wrong or len(errors) - len(wrong) < 2 * FEWEST:
            break
        _delete(clip, wrong)
        found = _attempt(clip, count, best["keyframes"])
    missing = [frame for frame in range(1, count + 1) if frame not in found["cameras"]]
    if missing:
        raise SceneError(
            f"Blender's solver finds the camera only to frame {missing[0] - 1} of the clip: too few features stay in "
            f"view after it; take fewer frames (--frames {max(missing[0] - 1, 1)}), or keep the camera."
        )
    cameras = np.stack([found["cameras"][frame] for frame in range(1, count + 1)])
    return {"cameras": cameras, "error_px": np.array(tracking.reconstruction.average_error)}


def _attempt(clip, count: int, keyframes: tuple[int, int] | None) -> dict:
    """``cameras``: frame → pose; ``error_px``: infinite where there is none that makes sense."""
    tracking = clip.tracking
    common = [track for track in tracking.tracks if _length(track) >= min(count, FEWEST)]
    if len(common) < FEWEST:
        raise SceneError(_too_few(len(common)))
    tracking.settings.use_keyframe_selection = keyframes is None
    if keyframes is not None:
        active = tracking.objects.active
        active.keyframe_a, active.keyframe_b = keyframes
    nothing = {"cameras": {}, "error_px": np.inf, "keyframes": keyframes}
    try:
        bpy.ops.clip.solve_camera()
    except RuntimeError:
        return nothing
    reconstruction = tracking.reconstruction
    if not reconstruction.is_valid:
        return nothing
    cameras = {camera.frame: np.array(camera.matrix) for camera in reconstruction.cameras}
    error = reconstruction.average_error if _goes_on(cameras) else np.inf
    return {"cameras": cameras, "error_px": error, "keyframes": keyframes}


def _goes_on(cameras: dict[int, np.ndarray]) -> bool:
    """No camera turns round or leaps from a frame to the next one."""
    poses = np.stack([cameras[frame] for frame in sorted(cameras)])
    if len(poses) < 2:
        return False
    turns = np.linalg.inv(poses[:-1]) @ poses[1:]
    cosine = (np.trace(turns[:, :3, :3], axis1=1, axis2=2) - 1.0) / 2.0
    steps = np.linalg.norm(turns[:, :3, 3], axis=1)
    even = steps.max() <= LEAP * max(np.median(steps), 0.02 * steps.sum())
    return bool(cosine.min() > np.cos(np.radians(MOST_TURN_DEGREES)) and even)


def _too_few(found: int) -> str:
    return (
        f"The clip has too few features for Blender to find its camera ({found} that stay in view, 8 are needed, and "
        "they must not all move alike); give a plate with cameras, or leave the camera where it is (keep)."
    )


def _length(track) -> int:
    return sum(not marker.mute for marker in track.markers)


def _tracks(clip, count: int) -> tuple[np.ndarray, np.ndarray]:
    width, height = clip.size
    tracks = np.full((count, len(clip.tracking.tracks), 2), np.nan, np.float32)
    visible = np.zeros(tracks.shape[:2], bool)
    for number, track in enumerate(clip.tracking.tracks):
        for marker in track.markers:
            if not marker.mute and 1 <= marker.frame <= count:
                tracks[marker.frame - 1, number] = marker.co[0] * width, (1.0 - marker.co[1]) * height
                visible[marker.frame - 1, number] = True
    return tracks, visible
