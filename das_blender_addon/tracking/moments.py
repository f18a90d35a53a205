# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose surface each pixel of a frame sees, and where that point was in the frame before: exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import JobCancelled
from .drawn import DrawnSurfaces
from .geometry import GeometrySequence
from .projection import pinhole_at
from .seen import check_geometry, seen_surfaces
from .surface import interpolate_on_surface
from .visibility import FirstView

NO_OBJECT = -1


@dataclass(frozen=True)
class Moment:
    """One frame; rows top-down.

    ``index``: the frame, 0-based.  ``objects`` [H,W] i32: the object, an index into `GeometrySequence.names`,
    `NO_OBJECT` where there is none.  ``before`` [H,W,2] f32: where the point lay in the frame before, pixels, centres
    at +0.5; NaN where there is none.  ``visible_before`` [H,W] bool: it was inside that frame and nothing hid it there.
    """

    index: int
    objects: np.ndarray
    before: np.ndarray
    visible_before: np.ndarray


def moments(
    geometry: GeometrySequence, indices: Sequence[int], *, should_stop: Callable[[], bool] | None = None
) -> Iterator[Moment]:
    """The frames ``indices`` (0-based, increasing) of ``geometry``, at the size of its cameras, each compared with the
    one before it among them; the first one with none.

    Raises `SceneError` when the arrays do not fit together, `JobCancelled`.
    """

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The look at the shot was cancelled.")

    check_geometry(geometry)
    surfaces, shape = DrawnSurfaces(geometry), (geometry.cameras.height, geometry.cameras.width)
    last, last_view = None, None
    for index in indices:
        camera, surface = pinhole_at(geometry.cameras, index), surfaces.at(index)
        points = surfaces.optical(surface, index, camera)
        nearest = seen_surfaces(points, surface.triangles, camera, check, surface.cut)
        pixels, seen, _ = surface.without_holes(*nearest)
        check()
        objects = np.full(shape, NO_OBJECT, np.int32)
        before, visible = np.full((*shape, 2), np.nan, np.float32), np.zeros(shape, bool)
        if surface.objects is not None:
            objects.reshape(-1)[pixels] = surface.objects[seen]
        if last is not None:
            known = surfaces.known(surface, last, last_view.camera)
            place = interpolate_on_surface(pixels, seen, surface.triangles, points, known, camera)
            xy = last_view.camera.project(place)
            before.reshape(-1, 2)[pixels] = xy
            visible.reshape(-1)[pixels] = last_view.shows(xy, place[:, 2])
        depth = interpolate_on_surface(*nearest, surface.triangles, points, points, camera)[:, 2]
        last, last_view = index, FirstView.of(
            nearest[0], depth, nearest[1], surface.triangles, points, camera, is_exact=False
        )
        yield Moment(index, objects, before, visible)
