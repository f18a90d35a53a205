# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth from tracks and a camera that moved: where the rays to a point meet, if it stands still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import SceneError
from .lifting import OPTICAL
from .plate import focal_px

FEWEST = 8
"""Points that a depth can be made from."""
WORST_SHARE = 0.003
"""A point whose rays miss each other by more than this share of the picture moves by itself (or its track is wrong)."""
LEAST_DEGREES = 0.3
"""Rays that differ by less say nothing of distance."""
_ROUNDS = 4


@dataclass(frozen=True)
class Points:
    """``places`` f64 [N,3], optical space of the first camera, in the cameras' unit; ``good`` bool [N]: it stands
    still, and its distance is told; ``error_px`` f64 [N]; ``moves`` bool [N]: it moves by itself.  One that was seen
    too shortly for either is neither.
    """

    places: np.ndarray
    good: np.ndarray
    error_px: np.ndarray
    moves: np.ndarray


def triangulated(
    tracks: np.ndarray, visible: np.ndarray, cameras: np.ndarray, lens_mm: float, size: tuple[int, int]
) -> Points:
    """``tracks`` [T,N,2+] in pixels of a picture of ``size`` (width, height), ``visible`` [T,N], ``cameras`` [T,4,4]
    camera → world.
    """
    width, height = size
    focal = focal_px(lens_mm, size)
    poses = OPTICAL @ np.linalg.inv(cameras[0]) @ cameras @ OPTICAL
    seen = visible & np.isfinite(tracks[..., :2]).all(axis=2)
    flat = np.where(seen[..., None], tracks[..., :2], 0.0).astype(np.float64)
    rays = np.stack([(flat[..., 0] - width / 2.0) / focal, (flat[..., 1] - height / 2.0) / focal], axis=-1)
    rays = np.concatenate([rays, np.ones((*rays.shape[:2], 1))], axis=2)
    turned = np.einsum("tij,tnj->tni", poses[:, :3, :3], rays)
    along = turned / np.linalg.norm(turned, axis=2, keepdims=True)
    across = np.eye(3) - along[..., :, None] * along[..., None, :]
    weight = seen.astype(np.float64)
    for _ in range(_ROUNDS):
        left = np.einsum("tn,tnij->nij", weight, across) + 1e-9 * np.eye(3)
        right = np.einsum("tn,tnij,tj->ni", weight, across, poses[:, :3, 3])
        places = np.linalg.solve(left, right[..., None])[..., 0]
        error, depth = _errors(places, poses, flat, seen, focal, (width, height))
        scale = WORST_SHARE * max(size)
        weight = seen / (np.maximum(depth, 1e-6) ** 2 * (1.0 + (error / scale) ** 2))
    count = np.maximum(seen.sum(axis=0), 1)
    rms = np.sqrt((np.where(seen, error, 0.0) ** 2).sum(axis=0) / count)
    angle = np.degrees(np.arccos(np.clip(np.where(seen, (along * along[:1]).sum(axis=2), 1.0), -1.0, 1.0))).max(axis=0)
    ahead = np.where(seen, depth > 0.0, True).all(axis=0) & (places[:, 2] > 0.0)
    told = seen[0] & (seen.sum(axis=0) >= 3)
    good = ahead & (rms <= scale) & (angle >= LEAST_DEGREES) & told
    return Points(places, good, rms, told & (rms > scale))


def _errors(places, poses, flat, seen, focal: float, size) -> tuple[np.ndarray, np.ndarray]:
    """([T,N] pixels between where points are and where they are seen, [T,N] depth)."""
    views = np.linalg.inv(poses)
    shown = np.einsum("tij,nj->tni", views[:, :3, :3], places) + views[:, None, :3, 3]
    depth = shown[..., 2]
    pixels = focal * shown[..., :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[..., None] + np.array(size) / 2.0
    return np.where(seen, np.linalg.norm(pixels - flat, axis=2), 0.0), depth


def check_points(points: Points, at: np.ndarray, shape: tuple[int, int]) -> None:
    """Raise `SceneError` where too few good ``points`` lie, ``at`` [N,2+] pixels, in a picture of ``shape`` (H, W)."""
    height, width = shape
    x, y = (np.floor(at[:, axis]) for axis in (0, 1))
    with np.errstate(invalid="ignore"):
        inside = points.good & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if inside.sum() < FEWEST:
        raise SceneError(
            f"Only {int(inside.sum())} points of the clip stand still and are seen from more than one side, and "
            f"{FEWEST} are needed to tell depth; give a depth file (--depth), or a clip whose camera moves sideways."
        )
