# SPDX-License-Identifier: GPL-3.0-or-later
"""What a thing of a clip hides in the first picture, as other frames of the clip show it.

The thing's mask goes through the clip with its surface; where a frame does not show the thing, it shows what is behind,
which is carried to the first picture as the background and the camera move.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .clip import ClipPlate
from .layers import widened
from .lifting import OPTICAL, Lifted, camera_path_of
from .mesh import PlateMesh
from .moving import influence, positions

EDGE_PX = 2
"""Pixels round a thing that are mixed with its colours, or that its surface misses by."""
MOST_SAMPLES = 7
"""Frames whose colours a pixel is the median of: those that show it, nearest in time first."""
BEFORE_SHARE = 0.04
"""Where 1/depth of a frame is larger than that of what is carried there by this share, another thing hides it."""
_NEAR = 1e-6

Places = Callable[[int], np.ndarray]
"""Frame, from 0 → [V,3]: the vertices of a mesh, optical space of the first camera."""


def followed_mask(
    clip: ClipPlate, mask: np.ndarray, mesh: PlateMesh, places: Places | None, lifted: Lifted | None = None
) -> np.ndarray:
    """Bool [T,H,W]: where the thing of ``mask`` bool [H,W] in the first picture is in each frame.

    ``mesh``: its surface; ``places``: as it moves, None where it stands still.  What lies behind a frame's camera is
    not in it; whether something hides the thing is not looked at.  Where none of its own points of ``lifted`` is seen,
    it may be anywhere: all of the frame is its.
    """
    lost = np.zeros(len(clip), bool)
    if places is not None and lifted is not None:
        column, row = (np.floor(lifted.at[:, axis]).astype(int) for axis in (0, 1))
        lost = ~lifted.seen[:, mask[row, column]].any(axis=1)
    views = np.linalg.inv(OPTICAL @ camera_path_of(clip) @ OPTICAL)
    covered = [mask]
    for number in range(1, len(clip)):
        if lost[number]:
            covered.append(np.ones(mask.shape, bool))
            continue
        at = mesh.vertices.astype(np.float64) if places is None else places(number)
        seen = at @ views[number, :3, :3].T + views[number, :3, 3]
        covered.append(_covered(seen, mesh.quads, clip.first.focal_px, mask.shape))
    return np.stack(covered)


def carried_background(
    clip: ClipPlate, hole: np.ndarray, depth: np.ndarray, covered: np.ndarray, moving: tuple[Lifted, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(colours f64 [H,W,3], bool [H,W]: which pixels of ``hole`` bool [H,W] some frame shows).

    ``depth`` [H,W]: of what is behind the things, Blender units; ``covered`` bool [T,H,W]: where the things are in each
    frame.  ``moving``: the clip's points and their motion (`moving.motion_of`), None where nothing is known to move.
    """
    height, width = hole.shape
    focal = clip.first.focal_px
    y, x = np.nonzero(hole)
    at = np.stack([x + 0.5, y + 0.5], axis=1)
    far = depth[y, x].astype(np.float64)
    points = np.stack([(at[:, 0] - width / 2.0) / focal * far, (at[:, 1] - height / 2.0) / focal * far, far], axis=1)
    places = _moved(points, at, moving, hole)
    views = np.linalg.inv(OPTICAL @ camera_path_of(clip) @ OPTICAL)
    samples = np.full((MOST_SAMPLES, len(points), 3), np.nan)
    count = np.zeros(len(points), np.int64)
    for number in range(1, len(clip)):
        seen = places(number) @ views[number, :3, :3].T + views[number, :3, 3]
        colours, shown = _sampled(clip, number, seen, _wide(covered[number]))
        shown &= count < MOST_SAMPLES
        samples[count[shown], np.flatnonzero(shown)] = colours[shown]
        count += shown
    made, known = np.zeros((*hole.shape, 3)), np.zeros(hole.shape, bool)
    found = count > 0
    if found.any():
        made[y[found], x[found]] = np.nanmedian(samples[:, found], axis=0)
    known[y, x] = found
    return made, known


def _moved(points: np.ndarray, at: np.ndarray, moving: tuple[Lifted, np.ndarray] | None, hole: np.ndarray) -> Places:
    """How the background of the ``hole`` goes: as the points beside it do."""
    if moving is None:
        return lambda number: points
    lifted, motion = moving
    column, row = (np.floor(lifted.at[:, axis]).astype(int) for axis in (0, 1))
    beside = ~hole[row, column]
    if not beside.any():
        return lambda number: points
    alone = np.repeat(np.arange(len(points), dtype=np.int32)[:, None], 4, axis=1)
    mesh = PlateMesh(points.astype(np.float32), alone, at.astype(np.float32))
    moved = influence(mesh, lifted, motion, beside)
    return lambda number: positions(mesh, moved, lifted, number).astype(np.float64)


def _sampled(clip: ClipPlate, number: int, seen: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(colours [N,3], which of the places ``seen`` [N,3], in the frame's optical space, its picture shows)."""
    height, width = covered.shape
    depth = np.maximum(seen[:, 2], _NEAR)
    x, y = (clip.first.focal_px * seen[:, axis] / depth + side / 2.0 for axis, side in ((0, width), (1, height)))
    inside = (seen[:, 2] > _NEAR) & (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)
    left = np.clip(np.floor(np.where(inside, x, 0.5) - 0.5).astype(int), 0, max(width - 2, 0))
    top = np.clip(np.floor(np.where(inside, y, 0.5) - 0.5).astype(int), 0, max(height - 2, 0))
    across, down = (np.where(inside, place, 0.5) - 0.5 - low for place, low in ((x, left), (y, top)))
    colours, shown = np.zeros((len(seen), 3)), inside
    for dy, dx, weight in (
        (0, 0, (1 - down) * (1 - across)), (0, 1, (1 - down) * across), (1, 0, down * (1 - across)),
        (1, 1, down * across),
    ):  # fmt: skip
        row, column = np.minimum(top + dy, height - 1), np.minimum(left + dx, width - 1)
        colours += weight[:, None] * clip.pictures[number][row, column]
        shown = shown & ~covered[row, column]
        if len(clip.depth) > 1:
            known, there = clip.valid[number][row, column], clip.depth[number][row, column]
            shown = shown & ~(known & (depth > there * (1.0 + BEFORE_SHARE)))
    return colours, shown


def _covered(seen: np.ndarray, quads: np.ndarray, focal: float, shape: tuple[int, int]) -> np.ndarray:
    """Bool [H,W]: pixels that the ``quads`` of vertices ``seen`` [V,3] touch."""
    height, width = shape
    out = np.zeros(shape, bool)
    quads = quads[(seen[quads, 2] > _NEAR).all(axis=1)]
    if not len(quads):
        return out
    flat = focal * seen[:, :2] / np.maximum(seen[:, 2:], _NEAR) + np.array([width / 2.0, height / 2.0])
    corners = flat[quads]
    side = np.linalg.norm(np.diff(corners, axis=1, append=corners[:, :1]), axis=2).max(axis=1)
    steps = int(np.clip(np.ceil(1.5 * np.percentile(side, 99.0)), 1, 16))
    for i in range(steps):
        for j in range(steps):
            a, b = (i + 0.5) / steps, (j + 0.5) / steps
            shares = np.array([(1 - a) * (1 - b), a * (1 - b), a * b, (1 - a) * b])
            x, y = np.floor(np.einsum("c,mcd->md", shares, corners)).T
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            out[y[inside].astype(int), x[inside].astype(int)] = True
    return out


def _wide(mask: np.ndarray) -> np.ndarray:
    for _ in range(EDGE_PX):
        mask = widened(mask)
    return mask
