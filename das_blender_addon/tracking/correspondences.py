# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each pixel of a frame lies in several key pictures of the shot, exactly, and whether they show it.

The triangle that a pixel sees is searched once per frame; its surface point is then followed to every key frame along
the vertices, forward or backward in time, and compared with what that frame's camera sees (`visibility`).  What has no
surface at all, the sky, lies infinitely far away: its direction is followed instead, where that is wanted.

Frames come one after the other: in memory are the views of the K key frames and the frame at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import JobCancelled, SettingsError
from .colours import in_first_frame
from .drawn import Drawn, DrawnSurfaces
from .geometry import GeometrySequence
from .projection import Pinhole, pinhole_at
from .seen import check_geometry, seen_surfaces
from .surface import interpolate_on_surface
from .visibility import SAME_SURFACE_SHARE, FirstView

_PIXELS_PER_PIECE = 1 << 16
#: Cosine of the angle up to which two orthographic cameras look in one direction: a hundredth of a degree.
SAME_DIRECTION = 1.0 - 1.5e-8


@dataclass(frozen=True)
class FrameCorrespondences:
    """What one frame shares with K key pictures of the same size; rows are top-down.

    ``index``: the frame, 0-based; ``key_indices``: the key pictures' frames, 0-based, in the order of the arrays.
    ``xy`` [K,H,W,2] f32: where the point that each pixel sees lies in the key picture, pixels, centres at +0.5 (may lie
    outside the picture); NaN where there is none or it lies behind that camera.
    ``visible`` [K,H,W] bool: it lies inside the key picture and nothing hides it there.
    ``coverage`` [H,W] bool: the frame sees a surface.  ``depth`` [H,W] f32: how far away, Blender units; inf where
    there is none.  ``key_edges`` [K,H,W] bool: in the key picture, pixels at an outline, which show two surfaces mixed;
    the same array for all frames.  ``key_inverse_depth``: K [H,W] f64, how far away what the key picture sees is,
    1/Blender units, 0 for nothing; the same for all frames.
    """

    index: int
    key_indices: tuple[int, ...]
    xy: np.ndarray
    visible: np.ndarray
    coverage: np.ndarray
    depth: np.ndarray
    key_edges: np.ndarray
    key_inverse_depth: Sequence[np.ndarray] = ()


def correspondences(
    geometry: GeometrySequence,
    key_indices: Sequence[int],
    *,
    frame_indices: Sequence[int] | None = None,
    background: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[FrameCorrespondences]:
    """Every frame of ``geometry``, at the size of its cameras, compared with the key frames ``key_indices`` (0-based).

    ``frame_indices``: which frames, and in which order; None for all.  ``background``: follow the sky, too, as if it
    were infinitely far away; without, it has no place anywhere.  ``should_stop()`` is asked many times per frame.

    Raises `SettingsError` for a frame that the shot does not have, `SceneError` when the arrays do not fit together,
    `JobCancelled` when ``should_stop`` says so.
    """
    check_geometry(geometry)
    keys, wanted = _checked(geometry, key_indices, frame_indices)

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The search for correspondences was cancelled.")

    return _frames(geometry, keys, wanted, background, check)


def _checked(geometry, key_indices, frame_indices) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count = geometry.num_frames
    keys = tuple(int(key) for key in key_indices)
    wanted = tuple(range(count)) if frame_indices is None else tuple(int(index) for index in frame_indices)
    if not keys:
        raise SettingsError("There is no key picture: name at least one of the shot's frames.")
    for name, indices in (("key picture", keys), ("frame", wanted)):
        for index in indices:
            if not 0 <= index < count:
                raise SettingsError(f"There is no frame {index} for a {name}: the shot has frames 0 to {count - 1}.")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two key pictures are at frame {twice}: keep one of them.")
    return keys, wanted


def _frames(geometry, keys, wanted, background, check) -> Iterator[FrameCorrespondences]:
    cameras, surfaces = geometry.cameras, DrawnSurfaces(geometry)
    views = []
    for key in keys:
        camera, surface = pinhole_at(cameras, key), surfaces.at(key)
        points = surfaces.optical(surface, key, camera)
        views.append(_view(points, surface, camera, check))
    shape = cameras.height, cameras.width
    edges = np.stack([outlines(view.inverse_depth.reshape(shape)) for view in views])
    inverse_depths = tuple(view.inverse_depth.reshape(shape) for view in views)
    surface = key_points = None
    for index in wanted:
        if surfaces.at(index) is not surface:
            surface = surfaces.at(index)
            key_points = _key_points(surfaces, surface, keys, views)
        camera = pinhole_at(cameras, index)
        points = surfaces.optical(surface, index, camera)
        frame = _frame(index, camera, points, surface, keys, key_points, views, edges, background, check)
        yield replace(frame, key_inverse_depth=inverse_depths)


def _key_points(surfaces: DrawnSurfaces, surface: Drawn, keys, views: list[FirstView]) -> np.ndarray:
    """[N,3·K] f64: where the points of ``surface`` are in the key frames, in the optical spaces of their cameras."""
    found = None
    for number, (key, view) in enumerate(zip(keys, views, strict=True)):
        points = surfaces.known(surface, key, view.camera)
        if found is None:
            found = np.empty((len(points), 3 * len(keys)))
        found[:, 3 * number : 3 * number + 3] = points
    return found


def _view(points, surface: Drawn, camera, check) -> FirstView:
    """What the key frame shows, prepared for questions about points."""
    triangles = surface.triangles
    pixels, seen = seen_surfaces(points, triangles, camera, check, surface.cut)
    depth = interpolate_on_surface(pixels, seen, triangles, points, points, camera)[:, 2]
    return FirstView.of(pixels, depth, triangles[seen], points, camera)


def _frame(
    index, camera, points, surface, keys, key_points, views, edges, background, check
) -> FrameCorrespondences:
    triangles, height, width = surface.triangles, camera.height, camera.width
    pixels, seen = seen_surfaces(points, triangles, camera, check, surface.cut)
    check()
    xy = np.full((len(keys), height * width, 2), np.nan, dtype=np.float32)
    visible = np.zeros((len(keys), height * width), dtype=bool)
    depth = np.full(height * width, np.inf, dtype=np.float32)
    attributes = np.concatenate([key_points, points[:, 2:]], axis=1)
    # In pieces that stay in the processor's cache, for all key pictures while the triangles' weights are at hand.
    for start in range(0, len(pixels), _PIXELS_PER_PIECE):
        piece = pixels[start : start + _PIXELS_PER_PIECE]
        triangle = seen[start : start + _PIXELS_PER_PIECE]
        place = interpolate_on_surface(piece, triangle, triangles, points, attributes, camera)
        depth[piece] = place[:, -1]
        for number, view in enumerate(views):
            there = place[:, 3 * number : 3 * number + 3]
            found = view.camera.project(there)
            xy[number, piece] = found
            visible[number, piece] = view.shows(found, there[:, 2])
        check()
    coverage = np.zeros(height * width, dtype=bool)
    coverage[pixels] = True
    if background:
        _follow_sky(np.flatnonzero(~coverage), camera, views, xy, visible)
    return FrameCorrespondences(
        index,
        keys,
        xy.reshape(len(keys), height, width, 2),
        visible.reshape(len(keys), height, width),
        coverage.reshape(height, width),
        depth.reshape(height, width),
        edges,
    )


def outlines(inverse_depth: np.ndarray) -> np.ndarray:
    """[H,W] bool: pixels beside which another surface begins; ``inverse_depth`` [H,W], 1/Blender units, 0 for none.

    1/depth is linear in the picture on a plane, however steep it is seen: what counts is its second difference.
    """
    found = np.zeros(inverse_depth.shape, dtype=bool)
    for axis in (0, 1):
        values, mark = np.moveaxis(inverse_depth, axis, 0), np.moveaxis(found, axis, 0)
        step = np.diff(values, axis=0)
        bend = np.abs(np.diff(step, axis=0))
        bent = bend > SAME_SURFACE_SHARE * np.maximum(np.maximum(values[:-2], values[1:-1]), values[2:])
        mark[1:-1] |= bent
        if len(values) == 2:
            mark |= (np.abs(step) > SAME_SURFACE_SHARE * values.max(axis=0))
        elif len(values) > 2:
            # The picture's border has one neighbour only: it goes with the pixel beside it where the step is there.
            mark[0] |= bent[0] & (np.abs(step[0]) > np.abs(step[1]))
            mark[-1] |= bent[-1] & (np.abs(step[-1]) > np.abs(step[-2]))
    return found


def _follow_sky(pixels: np.ndarray, camera: Pinhole, views: list[FirstView], xy, visible) -> None:
    """Enter where the directions of the ``pixels`` [P] without a surface lie in the key pictures."""
    for start in range(0, len(pixels), _PIXELS_PER_PIECE):
        piece = pixels[start : start + _PIXELS_PER_PIECE]
        for number, view in enumerate(views):
            found = sky_places(piece, camera, view.camera)
            xy[number, piece] = found
            visible[number, piece] = shows_sky(view, found)


def sky_places(pixels: np.ndarray, camera: Pinhole, other: Pinhole) -> np.ndarray:
    """[P,2] f64: where ``other`` sees the sky that ``camera`` sees at its flat ``pixels`` [P]; NaN for nowhere.

    An orthographic camera sees one direction of the sky everywhere: the same as another one that looks there, at the
    same place.
    """
    row, column = np.divmod(pixels, camera.width)
    turn = other.optical_from_world[:3, :3] @ camera.optical_from_world[:3, :3].T
    if other.is_orthographic:
        if camera.is_orthographic and turn[2, 2] > SAME_DIRECTION:
            return np.stack([column + 0.5, row + 0.5], axis=1)
        return np.full((len(pixels), 2), np.nan)
    rays = np.stack(
        [
            (column + 0.5 - camera.principal_px[0]) / camera.focal_px[0],
            (row + 0.5 - camera.principal_px[1]) / camera.focal_px[1],
            np.ones(len(pixels)),
        ]
    )
    if camera.is_orthographic:
        rays[:2] = 0.0
    return other.project((turn @ rays).T)


def shows_sky(view: FirstView, xy: np.ndarray) -> np.ndarray:
    """[P] bool: the key picture sees no surface at ``xy`` [P,2]."""
    width, height = view.camera.width, view.camera.height
    shown = in_first_frame(xy, width, height)
    inside = np.flatnonzero(shown)
    column = np.minimum(xy[inside, 0].astype(np.int64), width - 1)
    row = np.minimum(xy[inside, 1].astype(np.int64), height - 1)
    shown[inside] = view.inverse_depth[row * width + column] == 0.0
    return shown
