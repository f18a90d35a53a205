# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of each pixel shows a surface: the alpha of a film that is transparent elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import JobCancelled
from .drawn import Drawn, DrawnSurfaces
from .geometry import GeometrySequence
from .projection import Pinhole, pinhole_at
from .seen import seen_surfaces

SAMPLES = np.array([(1, -3), (-1, 3), (5, 1), (-3, -5), (-5, 5), (-7, -1), (3, 7), (7, -7)]) / 16.0
"""[8,2] places in a pixel, from its centre: no two in one row or column of a grid of eight."""


def coverage(
    geometry: GeometrySequence, index: int, *, smooth: bool, should_stop: Callable[[], bool] | None = None
) -> np.ndarray:
    """[H,W] u8, rows top-down, at the size of the cameras: 255 where the frame ``index`` (0-based) sees a surface.

    ``smooth``: what an edge covers in part is between, in eighths; else its centre counts.  Raises `JobCancelled`.
    """

    def check() -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("The take was cancelled.")

    camera = pinhole_at(geometry.cameras, index)
    surfaces = DrawnSurfaces(geometry)
    surface = surfaces.at(index)
    points = surfaces.optical(surface, index, camera)
    centres = _covered(points, surface, camera, check)
    whole = np.where(centres, np.uint8(255), np.uint8(0))
    if not smooth:
        return whole
    box = _edges_box(centres)
    if box is None:
        return whole
    rows, columns = box
    part = replace(camera, width=columns.stop - columns.start, height=rows.stop - rows.start)
    counted = np.zeros((part.height, part.width), np.uint16)
    for x, y in SAMPLES:
        shift = (camera.principal_px[0] - columns.start - x, camera.principal_px[1] - rows.start - y)
        counted += _covered(points, surface, replace(part, principal_px=shift), check)
    whole[box] = (counted * 255 + len(SAMPLES) // 2) // len(SAMPLES)
    return whole


def straight_colours(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``picture`` [H,W,3] u8 sRGB over black, as it would be without the black that its edges show: what is covered in
    part, and what lies beside that and is darker, has the colour of what is covered whole farther inside; black where
    nothing is covered.  ``alpha`` [H,W] u8.
    """
    colours = np.where((alpha > 0)[..., None], picture, np.uint8(0))
    whole = alpha == 255
    if not (alpha[~whole] > 0).any():
        return colours  # nothing is covered in part: there is nothing to smooth
    inside = _eroded(whole)
    wanted = (alpha > 0) & ~inside
    for source, reach in ((inside, 1), (inside, 2), (whole, 1), (whole, 2)):
        count, total = _around(source, picture, wanted, reach)
        found = count > 0
        places = tuple(axis[found] for axis in np.nonzero(wanted))
        clean = np.rint(total[found] / count[found, None]).astype(np.uint8)
        colours[places] = np.where(whole[places][:, None], np.maximum(clean, colours[places]), clean)
        wanted[places] = False
        if not wanted.any():
            break
    return colours


def _eroded(whole: np.ndarray) -> np.ndarray:
    """[H,W] bool: the pixel and its eight neighbours are ``whole``; beyond the picture all are."""
    height, width = whole.shape
    padded = np.pad(whole, 1, constant_values=True)
    eroded = np.ones_like(whole)
    for down in range(3):
        for across in range(3):
            eroded &= padded[down : down + height, across : across + width]
    return eroded


def _covered(points, surface: Drawn, camera: Pinhole, check) -> np.ndarray:
    pixels, _, _ = surface.without_holes(*seen_surfaces(points, surface.triangles, camera, check, surface.cut))
    found = np.zeros(camera.width * camera.height, bool)
    found[pixels] = True
    return found.reshape(camera.height, camera.width)


def _edges_box(covered: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns that hold all pixels whose neighbours differ, and those neighbours; None where there are none.
    """
    edges = np.zeros_like(covered)
    for axis in (0, 1):
        mark = np.moveaxis(edges, axis, 0)
        differs = np.diff(np.moveaxis(covered, axis, 0), axis=0)
        mark[:-1] |= differs
        mark[1:] |= differs
    if not edges.any():
        return None
    box = []
    for axis in (0, 1):
        there = np.flatnonzero(edges.any(axis=1 - axis))
        box.append(slice(max(0, there[0] - 1), min(covered.shape[axis], there[-1] + 2)))
    return box[0], box[1]


def _around(inside, picture, wanted, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each ``wanted`` pixel: how many pixels ``inside`` are within ``reach`` of it [P], and their sum [P,3]."""
    rows, columns = np.nonzero(wanted)
    count, total = np.zeros(len(rows)), np.zeros((len(rows), 3))
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            row, column = rows + down, columns + across
            there = (row >= 0) & (row < inside.shape[0]) & (column >= 0) & (column < inside.shape[1])
            row, column = row[there], column[there]
            own = inside[row, column]
            count[there] += own
            total[there] += own[:, None] * picture[row, column]
    return count, total
