# SPDX-License-Identifier: GPL-3.0-or-later
"""Station 2, geometry → tracking video: every pixel says where its surface point lay in the first frame.

Each vertex carries its first-frame position.  That position is interpolated on the surface that a pixel sees and only
then projected with the first frame's camera, pixel by pixel: two huge triangles give the same gradients as a fine mesh.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import JobCancelled, SceneError
from .colours import in_first_frame, tracking_colours
from .colours import inverse_depth_range as measure_inverse_depth_range
from .drawn import Drawn, DrawnSurfaces
from .geometry import GeometrySequence, TrackingVideo
from .projection import Pinhole, pinhole_at
from .seen import check_geometry, seen_surfaces
from .sky import shows_sky, sky_places
from .surface import interpolate_on_surface
from .visibility import FirstView

_PIXELS_AT_A_TIME = 1 << 14


def render_tracking_video(
    geometry: GeometrySequence,
    *,
    sky: bool = False,
    colours_only: bool = False,
    inverse_depth_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrackingVideo:
    """Render the tracking video of a shot with the cameras of ``geometry``, at their size.

    ``sky``: what no surface covers is tracked, too, as infinitely far away, see `sky`; without, it is black.
    ``colours_only``: without `TrackingVideo.first_frame_xy` and `TrackingVideo.first_frame_visible`, which take a third
    of the time and three quarters of the memory.
    ``inverse_depth_range`` (low, high) in 1/Blender units replaces the percentiles of the first frame.
    ``progress(done, total)`` is called after every frame; ``should_stop()`` is asked many times per frame.

    Raises `SceneError` when the arrays do not fit together or the first frame shows no surface, `JobCancelled` when
    ``should_stop`` says so.  One function, though long: three steps for each frame, which fill the same arrays.
    """
    check_geometry(geometry)
    num_frames, cameras = geometry.num_frames, geometry.cameras
    height, width = cameras.height, cameras.width

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The tracking video was cancelled.")

    video = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    coverage = np.zeros((num_frames, height, width), dtype=bool)
    first_frame_xy = first_frame_visible = None
    if not colours_only:
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
        nearest = seen_surfaces(points, surface.triangles, camera, check, surface.cut)
        pixels, seen, holes = surface.without_holes(*nearest)
        check()
        # 2. The first frame: what it shows, and the ends of the blue channel.
        place = None
        if index == 0:
            place = interpolate_on_surface(pixels, seen, surface.triangles, points, first_points, camera)
            if not colours_only:
                first_view = _first_view(surface, nearest, points, place, first_camera)
            if depth_range is None:
                depth_range = _range_of(place[:, 2], geometry.frames[0])
        # 3. Where was each surface point in the first frame?  Its colour and correspondence, a few pixels at a time,
        # so that all of it stays in the processor's cache.
        pictures, flags = (
            [None if array is None else array[index].reshape(shape) for array in arrays]
            for shape, arrays in (
                ((height * width, -1), (video, first_frame_xy)),
                (height * width, (coverage, first_frame_visible)),
            )
        )
        for start in range(0, len(pixels), _PIXELS_AT_A_TIME):
            check()
            part = slice(start, start + _PIXELS_AT_A_TIME)
            own = pixels[part]
            if place is None:
                there = interpolate_on_surface(own, seen[part], surface.triangles, points, first_points, camera)
            else:
                there = place[part]
            _enter(pictures, flags, own, there, first_camera, first_view, depth_range)
        if sky:
            _enter_sky(pictures, flags, holes, camera, first_camera, first_view, depth_range)
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


def _range_of(depth: np.ndarray, frame: int) -> tuple[float, float]:
    """The ends of the blue channel for the ``depth`` [P] that the first frame, Blender's ``frame``, shows.

    Raises `SceneError` where it shows nothing.
    """
    if not np.isfinite(depth).any():
        raise SceneError(
            f"No surface is in view in the first frame (frame {frame}): "
            "point the camera at the subject or start the shot at a frame that shows it."
        )
    return measure_inverse_depth_range(depth[np.isfinite(depth)])


def _first_view(surface: Drawn, nearest, points, place, camera: Pinhole) -> FirstView:
    """What the first frame's ``camera`` sees: pixels and triangles as they are ``nearest``; ``place``: of `TRACKED`."""
    if surface.roles is not None:
        place = interpolate_on_surface(*nearest, surface.triangles, points, points, camera)
    pixels, seen = nearest
    return FirstView.of(pixels, place[:, 2], seen, surface.triangles, points, camera, cut=surface.cut)


def _enter(pictures, flags, own, there, first_camera: Pinhole, first_view: FirstView | None, depth_range) -> None:
    """The pixels ``own`` [P], in order, whose surface was at ``there`` [P,3] of the first frame's camera; without
    ``first_view`` their colours only.
    """
    xy, depth = first_camera.project(there), there[:, 2]
    inside = in_first_frame(xy, first_camera.width, first_camera.height)
    if own[-1] - own[0] == len(own) - 1:  # all of them, one after the other
        own = slice(own[0], own[-1] + 1)
    pictures[0][own] = tracking_colours(xy, depth, first_camera.width, first_camera.height, depth_range, inside)
    flags[0][own] = True
    if first_view is not None:
        pictures[1][own] = xy
        flags[1][own] = first_view.shows(xy, depth, inside)


def _enter_sky(
    pictures, flags, holes, camera: Pinhole, first_camera: Pinhole, first_view: FirstView | None, depth_range
) -> None:
    """What no surface covers, and no hole of the ``holes`` [P]: infinitely far away, at its place in the first frame.
    """
    (video, first_frame_xy), (coverage, first_frame_visible) = pictures, flags
    is_bare = ~coverage
    is_bare[holes] = False
    bare = np.flatnonzero(is_bare)
    xy = sky_places(bare, camera, first_camera)
    nowhere_near = np.full(len(bare), np.inf)
    video[bare] = tracking_colours(xy, nowhere_near, first_camera.width, first_camera.height, depth_range)
    if first_view is not None:
        first_frame_xy[bare] = xy
        first_frame_visible[bare] = shows_sky(first_view, xy)
