# SPDX-License-Identifier: GPL-3.0-or-later
"""Station 2, geometry → tracking video: every pixel says where its surface point lay in the first frame.

Each vertex carries its first-frame position.  That position is interpolated on the surface that a pixel sees and only
then projected with the first frame's camera, pixel by pixel: two huge triangles give the same gradients as a fine mesh.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import JobCancelled, SceneError
from .colours import inverse_depth_range as measure_inverse_depth_range
from .colours import tracking_colours
from .geometry import GeometrySequence, TrackingVideo
from .projection import pinhole_at
from .rasteriser import NO_TRIANGLE, rasterise
from .surface import interpolate_on_surface
from .visibility import FirstView


def render_tracking_video(
    geometry: GeometrySequence,
    *,
    inverse_depth_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrackingVideo:
    """Render the tracking video of a shot with the cameras of ``geometry``, at their size.

    ``inverse_depth_range`` (low, high) in 1/Blender units replaces the percentiles of the first frame.
    ``progress(done, total)`` is called after every frame; ``should_stop()`` is asked many times per frame.

    Raises `SceneError` when the arrays do not fit together or the first frame shows no surface, `JobCancelled` when
    ``should_stop`` says so.
    """
    _check_geometry(geometry)
    num_frames, cameras = geometry.num_frames, geometry.cameras
    height, width = cameras.height, cameras.width

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The tracking video was cancelled.")

    video = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    coverage = np.zeros((num_frames, height, width), dtype=bool)
    first_frame_xy = np.full((num_frames, height, width, 2), np.nan, dtype=np.float32)
    first_frame_visible = np.zeros((num_frames, height, width), dtype=bool)

    first_camera = pinhole_at(cameras, 0)
    first_points = first_camera.optical_points(geometry.vertices[0])
    first_view = None
    depth_range = inverse_depth_range
    for index in range(num_frames):
        # 1. Which triangle does each pixel see?
        camera = pinhole_at(cameras, index)
        points = first_points if index == 0 else camera.optical_points(geometry.vertices[index])
        triangle_index = rasterise(points, geometry.triangles, camera, check=check).reshape(-1)
        pixels = np.flatnonzero(triangle_index != NO_TRIANGLE)
        pixels = _within_clip_end(pixels, triangle_index, geometry.triangles, points, camera)
        seen = triangle_index[pixels]
        check()
        # 2. Where was that surface point in the first frame?
        place = interpolate_on_surface(pixels, seen, geometry.triangles, points, first_points, camera)
        xy, depth = first_camera.project(place), place[:, 2]
        if first_view is None:
            first_view = FirstView.of(pixels, depth, geometry.triangles[seen], first_points, first_camera)
            if depth_range is None:
                if not pixels.size:
                    raise SceneError(
                        f"No surface is in view in the first frame (frame {geometry.frames[0]}): "
                        "point the camera at the subject or start the shot at a frame that shows it."
                    )
                depth_range = measure_inverse_depth_range(depth)
        check()
        # 3. Colours and correspondences.
        coverage[index].reshape(-1)[pixels] = True
        video[index].reshape(-1, 3)[pixels] = tracking_colours(xy, depth, width, height, depth_range)
        first_frame_xy[index].reshape(-1, 2)[pixels] = xy
        first_frame_visible[index].reshape(-1)[pixels] = first_view.shows(xy, depth)
        if progress is not None:
            progress(index + 1, num_frames)
    low, high = depth_range
    return TrackingVideo(
        video=video,
        coverage=coverage,
        first_frame_xy=first_frame_xy,
        first_frame_visible=first_frame_visible,
        inverse_depth_range=(float(low), float(high)),
        frames=tuple(geometry.frames),
    )


def _within_clip_end(pixels, triangle_index, triangles, points, camera) -> np.ndarray:
    """Those of the ``pixels`` [P] whose surface point is not beyond the camera's far plane.

    What lies behind it is nearest to nobody: the rest of the picture stays as it is.
    """
    depth = points[:, 2]
    if not pixels.size or not (depth > camera.clip_end).any():
        return pixels
    surface = interpolate_on_surface(pixels, triangle_index[pixels], triangles, points, depth[:, None], camera)[:, 0]
    return pixels[surface <= camera.clip_end]


def _check_geometry(geometry: GeometrySequence) -> None:
    """Raise `SceneError` when the arrays of ``geometry`` do not fit together."""
    vertices, triangles, cameras = geometry.vertices, geometry.triangles, geometry.cameras
    if vertices.ndim != 3 or vertices.shape[2] != 3 or not len(vertices):
        raise SceneError(f"Vertices must be [T,N,3] with T ≥ 1 and are {list(vertices.shape)}.")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise SceneError(f"Triangles must be [M,3] and are {list(triangles.shape)}.")
    if not len(vertices) == cameras.num_frames == len(geometry.frames):
        raise SceneError(
            f"The vertices have {len(vertices)} frames, the cameras {cameras.num_frames} and there are "
            f"{len(geometry.frames)} frame numbers: they must be equal."
        )
    if len(triangles) and not 0 <= int(triangles.min()) <= int(triangles.max()) < vertices.shape[1]:
        raise SceneError(
            f"Triangles name vertices {int(triangles.min())} to {int(triangles.max())}, "
            f"but there are {vertices.shape[1]} vertices."
        )
