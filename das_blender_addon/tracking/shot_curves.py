# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot at a glance, frame by frame and small: how much of it is covered, is new, and how far it moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import JobCancelled
from .drawn import DrawnSurfaces
from .geometry import GeometrySequence
from .projection import pinhole_at
from .seen import seen_surfaces
from .suggest import MOST_FRAMES, WIDTH_PX, small_cameras, suggest_key_frames
from .surface import interpolate_on_surface

FAST_PERCENTILE = 95.0
"""The motion of a frame is that of its points up to this percentile."""


@dataclass(frozen=True)
class ShotCurves:
    """``frame_indices`` [F]: the frames that were looked at, 0-based, increasing.

    ``covered`` [F] f32: share of the picture that shows a surface.  ``unseen`` [F] f32: share that no key picture
    shows.  ``motion`` [F] f32: how far points move from the frame to the next one of the shot (from the one before, at
    the end), 95th percentile, as a share of the picture's height; 0 where nothing is covered.  ``path``: how far half
    of the first frame's points move at least at any time, as a share of the height.  ``depth``: nearest, median and
    farthest of the first frame, Blender units, 2nd, 50th and 98th percentile; None where it shows nothing.
    """

    frame_indices: tuple[int, ...]
    covered: np.ndarray
    unseen: np.ndarray
    motion: np.ndarray
    path: float
    depth: tuple[float, float, float] | None


def shot_curves(
    geometry: GeometrySequence,
    key_indices: Sequence[int] = (0,),
    *,
    width: int = WIDTH_PX,
    most_frames: int = MOST_FRAMES,
    should_stop: Callable[[], bool] | None = None,
) -> ShotCurves:
    """Look at ``geometry``, whose cameras may have any picture size, in pictures ``width`` pixels wide.

    ``key_indices``: frames (0-based) of the key pictures; at most ``most_frames`` others are looked at.  Raises
    `SceneError` when the arrays do not fit together, `JobCancelled`.
    """
    keys = sorted({0, *key_indices})
    seen_by_keys = suggest_key_frames(
        geometry, wanted=keys, most_keys=len(keys), width=width, most_frames=most_frames, should_stop=should_stop
    )

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The look at the shot was cancelled.")

    small = replace(geometry, cameras=small_cameras(geometry.cameras, width))
    covered, motion, paths, depth = [], [], [], None
    first = _Seen(small, 0, check)
    for index in seen_by_keys.frame_indices:
        check()
        here = first if index == 0 else _Seen(small, index, check)
        covered.append(len(here.pixels) / (small.cameras.width * small.cameras.height))
        beside = index + 1 if index + 1 < geometry.num_frames else index - 1
        moved = here.moved_to(beside) if beside >= 0 else np.zeros(0)
        motion.append(float(np.percentile(moved, FAST_PERCENTILE)) if moved.size else 0.0)
        along = first.moved_to(index)
        paths.append(float(np.median(along)) if along.size else 0.0)
    if first.depth.size:
        depth = tuple(float(value) for value in np.percentile(first.depth, (2.0, 50.0, 98.0)))
    return ShotCurves(
        frame_indices=seen_by_keys.frame_indices,
        covered=np.array(covered, np.float32),
        unseen=seen_by_keys.unseen_before,
        motion=np.array(motion, np.float32),
        path=max(paths),
        depth=depth,
    )


class _Seen:
    """What a frame sees, as points on surfaces that can be followed."""

    def __init__(self, geometry: GeometrySequence, index: int, check: Callable[[], None]):
        self._geometry = geometry
        self._camera = pinhole_at(geometry.cameras, index)
        self._surfaces = DrawnSurfaces(geometry)
        self._surface = surface = self._surfaces.at(index)
        self._points = self._surfaces.optical(surface, index, self._camera)
        seen = seen_surfaces(self._points, surface.triangles, self._camera, check, surface.cut)
        self.pixels, self._triangles, _ = surface.without_holes(*seen)
        self.depth = self._on_surface(self._points)[:, 2]

    def moved_to(self, index: int) -> np.ndarray:
        """[P] how far the points that are there in the frame ``index``, too, move in the picture, in its heights."""
        there = pinhole_at(self._geometry.cameras, index)
        moved = there.project(self._on_surface(self._surfaces.known(self._surface, index, there)))
        row, column = np.divmod(self.pixels, self._camera.width)
        distance = np.hypot(moved[:, 0] - (column + 0.5), moved[:, 1] - (row + 0.5))
        return distance[np.isfinite(distance)] / self._camera.height

    def _on_surface(self, values: np.ndarray) -> np.ndarray:
        return interpolate_on_surface(
            self.pixels, self._triangles, self._surface.triangles, self._points, values, self._camera
        )
