# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pixels of one frame see where some triangles have holes: layer by layer, from the nearest one on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cut_outs import CutOuts
from .projection import Pinhole
from .rasteriser import draw, triangles_of
from .surface import corner_weights

_FAR_PX = 1e6
"""A corner that is farther away may be anywhere."""


def nearest_uncut(
    points: np.ndarray, triangles: np.ndarray, camera: Pinhole, cut: CutOuts, check: Callable[[], None] | None = None
) -> np.ndarray:
    """What `rasterise` gives, flat [H·W], where the triangles of ``cut`` are seen only where they are.

    Layer by layer: where the nearest one is transparent, the next one behind it is looked for, until none is.
    """
    solid = np.ones(len(triangles), bool)
    solid[cut.triangles] = False
    behind_all = np.zeros(camera.width * camera.height, np.uint64)
    draw(behind_all, points, triangles, camera, which=np.flatnonzero(solid), check=check)
    nearest = behind_all.copy()
    draw(nearest, points, triangles, camera, which=cut.triangles, check=check)
    open_pixels = np.flatnonzero(nearest != behind_all)
    boxes, which = _Boxes(points, triangles, cut.triangles, camera), cut.triangles
    while True:
        seen = triangles_of(nearest[open_pixels])
        open_pixels = open_pixels[_transparent(cut, open_pixels, seen, triangles, points, camera)]
        if not open_pixels.size:
            return triangles_of(nearest)
        beyond = np.zeros_like(nearest)
        beyond[open_pixels] = nearest[open_pixels]
        nearest[open_pixels] = behind_all[open_pixels]
        which = which[boxes.have_some(which, open_pixels)]
        draw(nearest, points, triangles, camera, which=which, beyond=beyond, check=check)
        open_pixels = open_pixels[nearest[open_pixels] != behind_all[open_pixels]]


def _transparent(cut: CutOuts, pixels, seen, triangles, points, camera: Pinhole) -> np.ndarray:
    """[P] bool: the flat ``pixels`` [P] see a triangle of ``cut``, one of ``seen`` [P], where it is cut out."""
    found = np.zeros(len(pixels), bool)
    if not len(cut.triangles):
        return found
    own = np.minimum(np.searchsorted(cut.triangles, seen), len(cut.triangles) - 1)
    ours = np.flatnonzero(cut.triangles[own] == seen)
    own = own[ours]
    weights = corner_weights(pixels[ours], seen[ours], triangles, points, camera)
    uv = np.einsum("cp,pcx->px", weights, cut.uv[own])
    picture = cut.picture[own]
    for number, one in enumerate(cut.pictures):
        there = np.flatnonzero(picture == number)
        found[ours[there]] = ~one.is_there(uv[there])
    return found


class _Boxes:
    """The parts of the picture that triangles may cover."""

    def __init__(self, points, triangles, which: np.ndarray, camera: Pinhole):
        """Of ``which`` [K] of the ``triangles`` [M,3]."""
        self._size = camera.height, camera.width
        self._which = which
        corners = triangles[which]
        xy = camera.project(points)
        whole = (points[:, 2] >= camera.clip_start) & (np.abs(xy) < _FAR_PX).all(axis=1)
        whole = whole[corners].all(axis=1)
        self._sides = []
        for axis, end in ((1, camera.height), (0, camera.width)):
            places = np.where(whole[:, None], xy[:, axis][corners], 0.0)
            low = np.where(whole, np.floor(places.min(axis=1)) - 1, 0)
            high = np.where(whole, np.ceil(places.max(axis=1)) + 1, end)
            self._sides += [np.clip(side, 0, end).astype(np.int64) for side in (low, high)]

    def have_some(self, which: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """[L] bool: there are some of the flat ``pixels`` [P] in the box of the triangle, one of our ``which`` [L]."""
        height, width = self._size
        count = np.zeros((height + 1, width + 1), np.int64)
        count[1:, 1:][np.divmod(pixels, width)] = 1
        count = count.cumsum(axis=0).cumsum(axis=1)
        own = np.searchsorted(self._which, which)
        top, bottom, left, right = (side[own] for side in self._sides)
        return count[bottom, right] - count[top, right] - count[bottom, left] + count[top, left] > 0
