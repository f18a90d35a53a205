# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixels → a mesh: each pixel (or block of pixels) is a quad on its surface, and shares its corners with the neighbours
on the same surface.

Quads reach half a pixel beyond the pixels' centres, so the first picture has no gap, neither at its border nor where
the surface is cut.  It is cut between two pixels whose inverse depths differ by more than a share, unless the step
goes on as it did beside it (a floor that recedes: 1/depth is linear in the picture on a plane).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError

MOST_QUADS = 2_000_000
"""More than these no Blender edits with pleasure."""
CUT_SHARE = 0.04
"""Neighbours whose 1/depth differs by more than this share of the larger lie on two surfaces, unless it goes on so."""
CUT_ALWAYS_SHARE = 0.3
"""Beyond this share they do in any case: a surface seen at so grazing an angle tears when the camera moves."""
BEND_SHARE = 0.5
"""A step that differs from that beside it by less than this share of itself goes on as it did."""
_RING = ((-1, -1), (-1, 1), (1, 1), (1, -1))
"""Sides (y, x) of the four cells round a corner: above left, above right, below right, below left."""


@dataclass(frozen=True)
class PlateMesh:
    """``vertices`` [N,3] f32, optical space (+X right, +Y down, +Z forward), Blender units; ``quads`` [M,4] i32,
    counter-clockwise as the camera sees them; ``pixels`` [N,2] f32: where each vertex lies in the picture, pixels.
    """

    vertices: np.ndarray
    quads: np.ndarray
    pixels: np.ndarray


def check_quads(size: tuple[int, int], every: int) -> None:
    """Raise `SettingsError` where the mesh of a picture of ``size`` (width, height) would be too large."""
    if _quads(size, every) > MOST_QUADS:
        enough = next(more for more in range(every, max(size) + 1) if _quads(size, more) <= MOST_QUADS)
        raise SettingsError(
            f"The mesh of {size[0]}×{size[1]} pixels would have {_quads(size, every)} quads, and {MOST_QUADS} are the "
            f"most; let each be {enough}×{enough} pixels (--every {enough}).",
            field="every",
        )


def _quads(size: tuple[int, int], every: int) -> int:
    return -(-size[0] // every) * -(-size[1] // every)


def mesh_of_depth(
    depth: np.ndarray, present: np.ndarray, focal: float, every: int = 1, motion: np.ndarray | None = None
) -> PlateMesh:
    """The surface of ``depth`` [H,W] f32 where ``present`` [H,W] bool, seen with the focal length ``focal`` (pixels)
    about the picture's middle.  ``every``: pixels along the side of a quad.  ``motion`` [H,W,C]: neighbours whose
    values are more than 1 apart lie on two surfaces, too.
    """
    height, width = depth.shape
    rows, columns = middles(height, every), middles(width, every)
    there = present[np.ix_(rows, columns)]
    inverse = np.where(there, 1.0 / np.where(there, depth[np.ix_(rows, columns)], 1.0), 0.0).astype(np.float64)
    blocks = (rows, height), (columns, width)
    edges = [np.minimum(np.arange(len(middles) + 1) * every, side) for middles, side in blocks]
    moves = None if motion is None else motion[np.ix_(rows, columns)]
    corner_y, corner_x, value, quads = _corners(inverse, there, (rows + 0.5, columns + 0.5), edges, moves)
    y, x = edges[0][corner_y], edges[1][corner_x]
    far = 1.0 / value
    vertices = np.stack([(x - width / 2.0) / focal * far, (y - height / 2.0) / focal * far, far], axis=1)
    return PlateMesh(vertices.astype(np.float32), quads, np.stack([x, y], axis=1).astype(np.float32))


def middles(count: int, every: int) -> np.ndarray:
    """The pixel in the middle of each block of ``every``."""
    starts = np.arange(0, count, every)
    return (starts + np.minimum(starts + every, count) - 1) // 2


def _joined(
    inverse: np.ndarray, there: np.ndarray, middles: np.ndarray, axis: int, moves: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(Bool, one shorter along ``axis``: the cell and the next one lie on one surface; the change of ``inverse`` per
    pixel of each cell along the axis, over its neighbours on the same surface, 0 where there are none).
    """
    values, both = np.moveaxis(inverse, axis, 0), np.moveaxis(there, axis, 0)
    both = both[:-1] & both[1:]
    apart = np.diff(middles)[:, None]
    step = np.where(both, np.diff(values, axis=0), 0.0)
    size, larger, slope = np.abs(step), np.maximum(values[:-1], values[1:]), step / apart
    bend = np.full(step.shape, np.inf)
    for here, beside in ((np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        differs = np.abs(slope[here] - slope[beside]) * apart[here]
        bend[here] = np.where(both[here] & both[beside], np.minimum(bend[here], differs), bend[here])
    joined = both & ~((size > CUT_SHARE * larger) & (bend > BEND_SHARE * size) | (size > CUT_ALWAYS_SHARE * larger))
    if moves is not None:
        joined &= np.linalg.norm(np.diff(np.moveaxis(moves, axis, 0), axis=0), axis=2) <= 1.0
    slope, link = np.pad(np.where(joined, slope, 0.0), ((1, 1), (0, 0))), np.pad(joined, ((1, 1), (0, 0)))
    mean = (slope[:-1] + slope[1:]) / np.maximum(link[:-1].astype(int) + link[1:], 1)
    return np.moveaxis(joined, 0, axis), np.moveaxis(mean, 0, axis)


def _corners(inverse, there, middles, edges, moves) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Corners [N] of the cells, one for each surface that meets there: row, column, 1/depth; and the quads [M,4].

    ``middles``, ``edges``: pixels (y, x) of the cells' middles and of their borders.
    """
    (down, slope_y), (right, slope_x) = (_joined(inverse, there, middles[axis], axis, moves) for axis in (0, 1))
    right, down = np.pad(right, ((1, 1), (1, 1))), np.pad(down, ((1, 1), (1, 1)))
    around = [(slice(0, -1), slice(0, -1)), (slice(0, -1), slice(1, None)), (slice(1, None), slice(1, None)),
              (slice(1, None), slice(0, -1))]  # fmt: skip
    exists = np.stack([np.pad(there, 1)[place] for place in around])
    surface = np.arange(4)[:, None, None] * np.ones(exists.shape[1:], np.int64)
    links = (
        (0, 1, right[:-1]),
        (3, 2, right[1:]),
        (0, 3, down[:, :-1]),
        (1, 2, down[:, 1:]),
    )
    for _ in range(3):
        for one, other, link in links:
            least = np.minimum(surface[one], surface[other])
            surface[one], surface[other] = np.where(link, least, surface[one]), np.where(link, least, surface[other])
    total, count = np.zeros(exists.shape), np.zeros(exists.shape)
    for cell, (place, (up, left)) in enumerate(zip(around, _RING, strict=True)):
        # The corner lies below a cell that is above it.
        to_y = (edges[0][1:] if up < 0 else edges[0][:-1]) - middles[0]
        to_x = (edges[1][1:] if left < 0 else edges[1][:-1]) - middles[1]
        value = inverse + to_y[:, None] * slope_y + to_x * slope_x
        value = np.pad(np.clip(value, 0.5 * inverse, 2.0 * inverse), 1)[place]
        for group in range(4):
            chosen = exists[cell] & (surface[cell] == group)
            total[group] += np.where(chosen, value, 0.0)
            count[group] += chosen
    number = np.full(exists.shape, -1, np.int64)
    number[count > 0] = np.arange(int((count > 0).sum()))
    group, row, column = np.nonzero(count > 0)
    y, x = np.nonzero(there)
    # Above left, below left, below right, above right; the cell lies below right of its first corner, and so on.
    turns = ((0, 0, 2), (1, 0, 1), (1, 1, 0), (0, 1, 3))
    quads = [number[surface[cell, y + dy, x + dx], y + dy, x + dx] for dy, dx, cell in turns]
    return row, column, total[count > 0] / count[count > 0], np.stack(quads, axis=1).astype(np.int32)
