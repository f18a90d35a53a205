# SPDX-License-Identifier: GPL-3.0-or-later
"""Who hides whom between the pixel centres of a frame: exactly, where surfaces end.

A pixel whose neighbours do not go on the surface at its centre is at an outline.  It keeps the triangles that may be
nearest anywhere in it: all small ones whose box reaches into it, and the large ones that are seen at the centres of 3×3
pixels.  A point in it is compared with those of them that its own ray meets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .projection import BEYOND, Pinhole

SMALL_PX = 128
"""Largest side of the box of a triangle that is small."""
SAME_PLANE_SHARE = 1e-2
"""A neighbour is on the same surface where its 1/depth differs by no more from that of the surface, gone on."""
AT_CENTRE_PX = 2e-3
"""A point so near to a pixel's centre is what the z-buffer says; triangles are snapped to 1/1024 pixel there."""
ON_EDGE = 1e-5
"""Share of a triangle's height by which it is larger, so that two of them have no gap between them."""
CELLS = 2
"""Of a pixel's side."""
AT_A_TIME, MOST = 1 << 21, 1 << 22
"""Pairs of an outline and a triangle that are looked at together, and that are kept at most: 0.1 kB each."""
NOTHING = -1


@dataclass(frozen=True)
class Outlines:
    """``place`` [H·W] i32: the number of each pixel at an outline, -1 for others.  Each has `CELLS` × `CELLS` cells,
    row by row: ``starts`` [O·CELLS²+1] i64: where the ``planes`` of each cell begin.

    ``planes`` [4,3,L] f32: of one triangle in one cell, times (x, y, 1) from the middle of its pixel on: the shares of
    its corners, of one sign inside it, and 1/depth (the depth, where the camera is orthographic), of which those are
    shares.
    """

    place: np.ndarray
    starts: np.ndarray
    planes: np.ndarray
    camera: Pinhole

    @classmethod
    def of(
        cls,
        planes: np.ndarray,
        nearest: np.ndarray,
        triangles: np.ndarray,
        points: np.ndarray,
        camera: Pinhole,
        cut: np.ndarray | None = None,
    ) -> Outlines | None:
        """``planes``: of `FirstView`.  ``nearest`` [H·W] i32: the one of ``triangles`` [M,3] that each pixel sees, -1
        for none; ``points`` [N,3] f64, optical.  ``cut`` [C]: triangles with holes; pixels that see them are no
        outlines.  None where outlines and triangles are too many, as in dense hair.
        """
        pixels = np.flatnonzero(_breaks(planes, camera))
        around = _around(nearest, NOTHING, pixels, camera)
        boxes, small = _boxes(triangles, points, camera)
        if cut is not None:
            has_holes = np.zeros(len(triangles) + 1, bool)
            has_holes[cut] = True
            kept = ~has_holes[around].any(axis=0)
            pixels, around = pixels[kept], around[:, kept]
            small[cut] = False
        place = np.full(len(nearest), NOTHING, np.int32)
        place[pixels] = np.arange(len(pixels), dtype=np.int32)
        least = _around(np.ascontiguousarray(planes[:, 0]), 0.0, pixels, camera).min(axis=0)
        seen = np.sort(around, axis=0)
        new = (seen != NOTHING) & ~small[seen]
        new[1:] &= seen[1:] != seen[:-1]
        reaching = _reaching(boxes, small, place, points[:, 2], triangles, least, camera)
        if reaching is None:
            return None
        which, where = reaching
        owners, numbers = np.concatenate([np.nonzero(new)[1], where]), np.concatenate([seen[new], which])
        used, numbers = np.unique(numbers, return_inverse=True)
        cells, found = _cells(owners, numbers.reshape(-1), pixels, _planes(points[triangles[used]], camera), camera)
        starts = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(pixels) * CELLS**2))])
        order = np.argsort(cells, kind="stable")
        return cls(place, starts, found.take(order, axis=2), camera)

    def decide(
        self, pixel: np.ndarray, x: np.ndarray, y: np.ndarray, depth: np.ndarray, share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of points in the pixels ``pixel`` [P], at ``x``, ``y`` [P] f64 of it, 0…1, and ``depth`` [P] f64: which are
        decided here [D], and whether each is seen [D] bool: no farther than the nearest by more than ``share``.
        """
        owner = self.place.take(pixel)
        asked = np.flatnonzero((owner != NOTHING) & (depth > 0.0))
        if not len(asked):
            return asked, np.zeros(0, bool)
        x, y = x.take(asked), y.take(asked)
        column, row = (np.minimum((axis * CELLS).astype(np.int64), CELLS - 1) for axis in (x, y))
        cell = (owner.take(asked) * np.int64(CELLS) + row) * CELLS + column
        x, y = (x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32)
        counts = self.starts[cell + 1] - self.starts[cell]
        kept = np.flatnonzero((counts > 0) & (np.maximum(np.abs(x), np.abs(y)) > AT_CENTRE_PX))
        if not len(kept):
            return kept, np.zeros(0, bool)
        asked, cell, counts, x, y = (each.take(kept) for each in (asked, cell, counts, x, y))
        first = np.cumsum(counts) - counts
        entry = np.arange(first[-1] + counts[-1]) + np.repeat(self.starts[cell] - first, counts)
        x, y = np.repeat(x, counts), np.repeat(y, counts)
        there = []
        for across, down, middle in self.planes:
            there.append(across.take(entry))
            there[-1] *= x
            own = down.take(entry)
            own *= y
            there[-1] += own
            there[-1] += middle.take(entry)
        *shares, nearness = there
        meets = np.minimum(np.minimum(shares[0], shares[1]), shares[2]) >= -ON_EDGE * np.abs(nearness)
        with np.errstate(divide="ignore"):
            if self.camera.is_orthographic:
                nearness = 1.0 / nearness
            far = 1.0 / nearness
        meets &= (far >= self.camera.clip_start) & ((far <= self.camera.clip_end) | (far >= BEYOND))
        nearest = np.maximum.reduceat(np.where(meets, nearness, np.float32(0.0)), first)
        decided = nearest > 0.0
        return asked[decided], (nearest * depth.take(asked) <= 1.0 + share)[decided]


def _around(picture: np.ndarray, outside, pixels: np.ndarray, camera: Pinhole) -> np.ndarray:
    """[9,P]: what ``picture`` [H·W] has in 3×3 pixels around each of the flat ``pixels`` [P]."""
    framed = np.pad(picture.reshape(camera.height, camera.width), 1, constant_values=outside).reshape(-1)
    wide = camera.width + 2
    middle = pixels + 2 * (pixels // camera.width) + wide + 1
    return np.stack([framed.take(middle + (y * wide + x)) for y in (-1, 0, 1) for x in (-1, 0, 1)])


def _breaks(planes: np.ndarray, camera: Pinhole) -> np.ndarray:
    """[H·W] bool: not all of 3×3 pixels lie on the surface that is seen in the middle one."""
    shape = camera.height, camera.width
    nearness, change_x, change_y = (np.ascontiguousarray(planes[:, axis]).reshape(shape) for axis in range(3))
    framed = np.pad(nearness, 1, mode="edge")
    found = np.zeros(shape, bool)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            there = framed[1 + step_y : 1 + step_y + shape[0], 1 + step_x : 1 + step_x + shape[1]]
            expected = change_x * np.float32(step_x) + change_y * np.float32(step_y)
            with np.errstate(divide="ignore", invalid="ignore"):
                if camera.is_orthographic:
                    expected = nearness / (np.float32(1.0) + expected * nearness)
                else:
                    expected += nearness
            found |= ~(np.abs(there - expected) <= SAME_PLANE_SHARE * np.maximum(nearness, there))
    return found.reshape(-1)


def _boxes(triangles: np.ndarray, points: np.ndarray, camera: Pinhole) -> tuple[list[np.ndarray], np.ndarray]:
    """Of each triangle the pixels that its box touches: [left, right, top, bottom], each [M] i32, right and bottom not
    included, and whether it is small [M+1] bool (nothing, the last, is).
    """
    xy = camera.project(points)
    xy[~(points[:, 2] >= camera.clip_start)] = np.nan
    small = np.ones(len(triangles) + 1, bool)
    boxes = []
    corners = np.ascontiguousarray(triangles.T)
    for axis, end in ((0, camera.width), (1, camera.height)):
        places = xy[:, axis].astype(np.float32).take(corners)
        low, high = places.min(axis=0), places.max(axis=0)
        with np.errstate(invalid="ignore"):
            small[:-1] &= high - low <= SMALL_PX
            sides = (np.nan_to_num(np.floor(side), nan=0.0) for side in (low, high + 1))
            boxes += [np.clip(side, 0, end).astype(np.int32) for side in sides]
    return boxes, small


def _reaching(boxes, small, place, depth, triangles, least, camera) -> tuple[np.ndarray, np.ndarray] | None:
    """The ``small`` triangles that reach into outlines, by their ``boxes``, and into which each does: both [R].  Left
    out are those behind all that is seen in 3×3 pixels, whose 1/depth is ``least`` [O] at least.  None for more than
    `MOST`.
    """
    shape = camera.height, camera.width
    left, right, top, bottom = boxes
    count = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    count[1:, 1:] = (place != NOTHING).reshape(shape)
    count = count.cumsum(axis=0).cumsum(axis=1)
    inside = count[bottom, right] - count[top, right] - count[bottom, left] + count[top, left]
    chosen = np.flatnonzero((inside > 0) & small[:-1])
    before = np.concatenate([[0], np.cumsum(place != NOTHING)])  # outlines in the pixels before each
    found, total = [(np.zeros(0, np.int64),) * 2], 0
    upto = np.cumsum(inside[chosen].astype(np.int64))
    ends = np.searchsorted(upto, np.arange(AT_A_TIME, upto[-1] + AT_A_TIME, AT_A_TIME)) if len(chosen) else []
    start = 0
    for end in (min(int(end) + 1, len(chosen)) for end in ends):
        which, start = chosen[start:end], end
        each, row = _counted(bottom[which] - top[which])
        row = (row + top[which][each]).astype(np.int64) * shape[1]
        first = before[row + left[which][each]]
        of_row, owner = _counted(before[row + right[which][each]] - first)
        each, owner = each[of_row], owner + first[of_row]
        nearest = 1.0 / depth[triangles[which]].min(axis=1)
        kept = nearest[each] >= least[owner] * (1.0 - SAME_PLANE_SHARE)
        found.append((which[each[kept]], owner[kept]))
        total += len(found[-1][0])
        if total > MOST:
            return None
    which, owner = (np.concatenate(part) for part in zip(*found, strict=True))
    return which, owner


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both [sum of counts]: the number n of each of ``counts`` [R], n times; and 0 to n - 1 for each."""
    each = np.repeat(np.arange(len(counts)), counts)
    return each, np.arange(len(each)) - (np.cumsum(counts) - counts)[each]


def _planes(corners: np.ndarray, camera: Pinhole) -> np.ndarray:
    """[K,3,4] f64: what `Outlines.planes` holds, times (x, y, 1) in pixels of the picture, of triangles with
    ``corners`` [K,3,3], optical; NaN for those that are seen edge-on.
    """
    (focal_x, focal_y), (middle_x, middle_y) = camera.focal_px, camera.principal_px
    ray = np.array(
        [[1.0 / focal_x, 0.0, -middle_x / focal_x], [0.0, 1.0 / focal_y, -middle_y / focal_y], [0.0, 0.0, 1.0]]
    )
    depth = corners[:, :, 2].copy()
    if camera.is_orthographic:
        corners = corners.copy()
        corners[:, :, 2] = 1.0
    a, b, c = corners.transpose(1, 0, 2)
    sides = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = sides @ ray / np.einsum("kx,kx->k", a, sides[:, 0])[:, None, None]
        if camera.is_orthographic:
            shares *= depth[:, :, None]
        planes = np.concatenate([shares, shares.sum(axis=1, keepdims=True)], axis=1).transpose(0, 2, 1)
    planes[~np.isfinite(planes).all(axis=(1, 2))] = np.nan
    return planes


def _cells(owners, numbers, pixels, planes, camera: Pinhole) -> tuple[np.ndarray, np.ndarray]:
    """The cells [L] that triangles reach into, and their planes there [4,3,L] f32: of the outlines ``owners`` [R], at
    ``pixels`` [O], and the triangles ``numbers`` [R] of ``planes`` [K,3,4].
    """
    row, column = np.divmod(pixels[owners], camera.width)
    own = planes[numbers]
    own[:, 2] += own[:, 0] * (column + 0.5)[:, None] + own[:, 1] * (row + 0.5)[:, None]
    steepness = (np.abs(own[:, 0, :3]) + np.abs(own[:, 1, :3])) * (0.5 / CELLS)
    cells, found = [], []
    for across in range(CELLS):
        for down in range(CELLS):
            x, y = ((place + 0.5) / CELLS - 0.5 for place in (across, down))
            middle = own[:, 2, :3] + own[:, 0, :3] * x + own[:, 1, :3] * y
            reaching = np.flatnonzero((middle + steepness >= 0.0).all(axis=1))
            cells.append((owners[reaching] * CELLS + down) * CELLS + across)
            found.append(own[reaching].astype(np.float32))
    return np.concatenate(cells), np.ascontiguousarray(np.concatenate(found).transpose(2, 1, 0))
