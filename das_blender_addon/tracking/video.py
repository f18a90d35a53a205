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
from .drawn import DrawnSurfaces
from .geometry import GeometrySequence, TrackingVideo
from .projection import pinhole_at
from .seen import check_geometry, seen_surfaces
from .sky import shows_sky, sky_places
from .surface import interpolate_on_surface
from .visibility import FirstView


def render_tracking_video(
    geometry: GeometrySequence,
    *,
    sky: bool = False,
    inverse_depth_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrackingVideo:
    """Render the tracking video of a shot with the cameras of ``geometry``, at their size.

    ``sky``: what no surface covers is tracked, too, as infinitely far away, see `sky`; without, it is black.
    ``inverse_depth_range`` (low, high) in 1/Blender units replaces the percentiles of the first frame.
    ``progress(done, total)`` is called after every frame; ``should_stop()`` is asked many times per frame.

    Raises `SceneError` when the arrays do not fit together or the first frame shows no surface, `JobCancelled` when
    ``should_stop`` says so.
    """
    check_geometry(geometry)
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
    surfaces = DrawnSurfaces(geometry)
    surface = first_points = first_view = None
    depth_range = inverse_depth_range
    for index in range(num_frames):
        # 1. Which triangle does each pixel see?
        camera = pinhole_at(cameras, index)
        if surfaces.at(index) is not surface:
            surface = surfaces.at(index)
            first_points = surfaces.known(surface, 0, first_camera)
        points = surfaces.optical(surface, index, camera)
        pixels, seen = seen_surfaces(points, surface.triangles, camera, check, surface.cut)
        check()
        # 2. Where was that surface point in the first frame?
        place = interpolate_on_surface(pixels, seen, surface.triangles, points, first_points, camera)
        xy, depth = first_camera.project(place), place[:, 2]
        if first_view is None:
            drawn = depth
            if surface.roles is not None:
                drawn = interpolate_on_surface(pixels, seen, surface.triangles, points, points, camera)[:, 2]
            first_view = FirstView.of(pixels, drawn, seen, surface.triangles, points, first_camera)
            if depth_range is None:
                if not np.isfinite(depth).any():
                    raise SceneError(
                        f"No surface is in view in the first frame (frame {geometry.frames[0]}): "
                        "point the camera at the subject or start the shot at a frame that shows it."
                    )
                depth_range = measure_inverse_depth_range(depth[np.isfinite(depth)])
        check()
        # 3. Colours and correspondences.
        coverage[index].reshape(-1)[pixels] = True
        video[index].reshape(-1, 3)[pixels] = tracking_colours(xy, depth, width, height, depth_range)
        first_frame_xy[index].reshape(-1, 2)[pixels] = xy
        first_frame_visible[index].reshape(-1)[pixels] = first_view.shows(xy, depth)
        if sky:
            bare = np.flatnonzero(~coverage[index].reshape(-1))
            xy = sky_places(bare, camera, first_camera)
            nowhere_near = np.full(len(bare), np.inf)
            video[index].reshape(-1, 3)[bare] = tracking_colours(xy, nowhere_near, width, height, depth_range)
            first_frame_xy[index].reshape(-1, 2)[bare] = xy
            first_frame_visible[index].reshape(-1)[bare] = shows_sky(first_view, xy)
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
