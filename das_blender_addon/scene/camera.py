# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender camera ⇄ pinhole or orthographic camera, in both directions.

`camera_from_blender` reads a camera, `blender_camera_values` says how to set one up so that Blender's own engines see
exactly what a pinhole camera sees (the overscanned view of the first frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import SceneError
from ..tracking.geometry import CameraPath

NO_FRAME = -(10**9)
NORMAL_LENS = 50.0 / 36.0
"""Virtual distance of an orthographic camera in widths of its picture: a 50 mm lens on 36 mm of film sees as much."""
FLAT = 1e-6
"""A camera whose axes span less than this volume has lost a direction; 1 is a camera that is only turned."""


def render_size(scene) -> tuple[int, int]:
    """(width, height) of the scene's render in pixels, after its percentage, rounded down as Blender does."""
    render = scene.render
    percentage = render.resolution_percentage
    return render.resolution_x * percentage // 100, render.resolution_y * percentage // 100


def checked_render_size(scene) -> tuple[int, int]:
    """`render_size`.  Raises `SceneError` where no pixel is left of it."""
    width, height = render_size(scene)
    if not width or not height:
        render = scene.render
        raise SceneError(
            f"The render of {render.resolution_x}×{render.resolution_y} pixels at {render.resolution_percentage} % has "
            f"{width}×{height} pixels; raise Output › Resolution or its percentage."
        )
    return width, height


def pixel_aspect(scene) -> tuple[float, float]:
    """(x, y) shape of the scene's pixels; (1, 1) is square."""
    return scene.render.pixel_aspect_x, scene.render.pixel_aspect_y


def check_one_view(scene) -> None:
    """Raise `SceneError` when the scene renders several views."""
    if scene.render.use_multiview:
        raise SceneError(
            "Stereoscopy is on, and Blender renders every view where a take has one view only: use Render Take or das "
            "render, or turn off Output › Stereoscopy."
        )


def active_camera(scene, frame: int):
    """The camera object (original data) that renders ``frame``: the one bound to the nearest marker at or before it
    (after time remapping, as for all that is animated), the first bound one when all come later, else the scene's.

    The rule is Blender's own (``BKE_scene_camera_switch_find``); it is repeated here because the evaluated scene names
    the camera of the step before.  Raises `SceneError` when there is none.
    """
    bound = [
        marker for marker in scene.timeline_markers if marker.camera is not None and not marker.camera.hide_render
    ]
    camera, at = None, NO_FRAME
    moment = animated_frame(scene, frame)
    for marker in bound:
        if at < marker.frame <= moment:
            camera, at = marker.camera, marker.frame
    if camera is None and bound:
        camera = min(bound, key=lambda marker: marker.frame).camera
    camera = camera or scene.camera
    if camera is None:
        raise SceneError(f"The scene {scene.name!r} has no camera; add one and make it the scene's active camera.")
    return camera


def cameras_at(scene, frames: Sequence[int]) -> tuple[tuple[int, str], ...]:
    """(frame, name of the camera that renders it and those after it) of the increasing ``frames``; none where the scene
    has no camera.
    """
    found: list[tuple[int, str]] = []
    try:
        for frame in frames:
            name = active_camera(scene, frame).name
            if not found or found[-1][1] != name:
                found.append((int(frame), name))
    except SceneError:
        return ()
    return tuple(found)


def animated_frame(scene, frame: int) -> int:
    """The frame of the animation that the scene's ``frame`` shows, after its time remapping; rounded as Blender does,
    in single precision and towards 0.
    """
    render = scene.render
    return int(np.float32(frame) * (np.float32(render.frame_map_old) / np.float32(render.frame_map_new)))


def camera_from_blender(
    camera, width: int, height: int, *, aspect: tuple[float, float] = (1.0, 1.0), frame: int | None = None
) -> CameraPath:
    """One camera (a `CameraPath` of T = 1) from an evaluated Blender camera object.

    ``width``, ``height``: the picture, pixels.  ``aspect``: (x, y) shape of a pixel.  Handles lens shift, sensor fit
    and pixel aspect as ``BKE_camera_params_compute_viewplane`` does; the camera's scale has no effect, as in Blender.

    Raises `SceneError` naming the camera and its type for anything but a perspective or an orthographic camera.
    """
    at_frame = "" if frame is None else f" at frame {frame}"
    if camera.type != "CAMERA":
        raise SceneError(f"The scene's camera {camera.name!r} is a {camera.type} object{at_frame}; use a camera.")
    lens = camera.data
    if lens.type not in ("PERSP", "ORTHO"):
        raise SceneError(
            f"The camera {camera.name!r} is of type {lens.type}{at_frame}; only perspective and orthographic cameras "
            "can be tracked: set its type to one of these."
        )
    world_from_camera = np.array(camera.matrix_world.normalized(), dtype=np.float64)
    if not np.isfinite(world_from_camera).all() or abs(np.linalg.det(world_from_camera)) < FLAT:
        raise SceneError(
            f"The camera {camera.name!r} looks nowhere{at_frame}: {_flattened(camera)}; give it a scale of 1 in x, y "
            "and z."
        )
    ratio = aspect[1] / aspect[0]
    fit, sensor = lens.sensor_fit, lens.sensor_width
    if fit == "AUTO":
        fit = "HORIZONTAL" if width * aspect[0] >= height * aspect[1] else "VERTICAL"
    elif fit == "VERTICAL":
        sensor = lens.sensor_height
    # Pixels across the sensor, counted in widths of a pixel.
    across = width if fit == "HORIZONTAL" else ratio * height
    focal_x, distance = lens.lens / sensor * across, None
    if lens.type == "ORTHO":
        if not lens.ortho_scale > 0.0:
            raise SceneError(
                f"The camera {camera.name!r} has an orthographic scale of {lens.ortho_scale:g}{at_frame} and sees "
                "nothing; set a larger one."
            )
        focal_x = across / lens.ortho_scale
        distance = np.array([NORMAL_LENS * width / focal_x])
    return CameraPath(
        camera_from_world=np.linalg.inv(world_from_camera)[None],
        focal_px=np.array([[focal_x, focal_x / ratio]]),
        principal_px=np.array([[width / 2 - lens.shift_x * across, height / 2 + lens.shift_y * across / ratio]]),
        clip_start=np.array([lens.clip_start], dtype=np.float64),
        clip_end=np.array([lens.clip_end], dtype=np.float64),
        width=width,
        height=height,
        virtual_distance=distance,
    )


def _flattened(camera) -> str:
    """Which object takes the camera's directions away: itself, or the nearest of its parents that does."""
    shape = camera
    while shape is not None:
        if 0.0 in tuple(shape.scale) or 0.0 in tuple(shape.delta_scale):
            return "it is scaled to 0" if shape is camera else f"its parent {shape.name!r} is scaled to 0"
        shape = shape.parent
    return "its transform is flat or not a number"


def join_cameras(cameras: Sequence[CameraPath]) -> CameraPath:
    """Paths of the same picture size, one after the other, as one path."""
    if len({(camera.width, camera.height) for camera in cameras}) != 1:
        raise SceneError("The cameras of a shot must share one picture size.")
    distances = [camera.virtual_distance for camera in cameras]
    return CameraPath(
        camera_from_world=np.concatenate([camera.camera_from_world for camera in cameras]),
        focal_px=np.concatenate([camera.focal_px for camera in cameras]),
        principal_px=np.concatenate([camera.principal_px for camera in cameras]),
        clip_start=np.concatenate([camera.clip_start for camera in cameras]),
        clip_end=np.concatenate([camera.clip_end for camera in cameras]),
        width=cameras[0].width,
        height=cameras[0].height,
        virtual_distance=np.concatenate([np.zeros(1) if one is None else one for one in distances])
        if any(one is not None for one in distances)
        else None,
    )


@dataclass(frozen=True)
class BlenderCameraValues:
    """What to set on a Blender camera and its scene's render so that they see what a camera of ours sees.

    ``matrix_world`` [4][4]: rows.  ``sensor_width``: mm, with ``sensor_fit`` HORIZONTAL; the lens keeps its length, so
    depth of field stays as it was.  ``pixel_aspect``: (x, y) of the render.  ``width``, ``height``: the render, pixels.
    ``ortho_scale``: Blender units across the picture, None for a perspective camera.
    """

    matrix_world: list[list[float]]
    sensor_width: float
    shift_x: float
    shift_y: float
    pixel_aspect: tuple[float, float]
    width: int
    height: int
    ortho_scale: float | None = None


def blender_camera_values(cameras: CameraPath, index: int, lens_mm: float) -> BlenderCameraValues:
    """The inverse of `camera_from_blender` for camera ``index`` of ``cameras`` and a lens of ``lens_mm`` mm."""
    focal_x, focal_y = (float(value) for value in cameras.focal_px[index])
    principal_x, principal_y = (float(value) for value in cameras.principal_px[index])
    is_orthographic = cameras.virtual_distance is not None and cameras.virtual_distance[index] > 0.0
    ratio = focal_x / focal_y
    if abs(ratio - 1.0) < 1e-6:
        ratio = 1.0
    return BlenderCameraValues(
        matrix_world=np.linalg.inv(cameras.camera_from_world[index]).tolist(),
        sensor_width=lens_mm * cameras.width / focal_x,
        shift_x=0.5 - principal_x / cameras.width,
        shift_y=(principal_y - cameras.height / 2) * ratio / cameras.width,
        pixel_aspect=(1.0, ratio) if ratio >= 1.0 else (1.0 / ratio, 1.0),
        width=cameras.width,
        height=cameras.height,
        ortho_scale=cameras.width / focal_x if is_orthographic else None,
    )
