# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracks in the picture → points that move in space, known in every frame.

A point that is hidden goes on as the points beside it on the same surface do; one that comes back is led there evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .clip import ClipPlate
from .plate import focal_px

OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
"""Blender's camera axes ↔ +X right, +Y down, +Z forward."""
_NEIGHBOURS = 6
MANY = 2000
"""Of more points than these a part, evenly chosen, is looked through for neighbours."""
_SURFACE_SHARE = 0.05
"""Points whose 1/depth differs by this share are as far from each other as two that are one spacing apart."""


@dataclass(frozen=True)
class Lifted:
    """Points of the first picture: ``at`` f64 [N,2], pixels there; ``inverse`` f64 [N], 1/depth there; ``places`` f64
    [T,N,3], optical space of the first camera (+X right, +Y down, +Z forward), Blender units; ``seen`` bool [T,N].
    """

    at: np.ndarray
    inverse: np.ndarray
    places: np.ndarray
    seen: np.ndarray

    @property
    def spacing(self) -> float:
        """Pixels between neighbours, were they spread evenly over where they are."""
        if len(self.at) < 2:
            return 1.0
        extent = np.maximum(np.ptp(self.at, axis=0), 1.0)
        return float(max(np.sqrt(extent.prod() / len(self.at)), 1.0))


def camera_path_of(clip: ClipPlate) -> np.ndarray:
    """[T,4,4] f64: camera → first camera, Blender's axes; all the same where the clip's camera stands still."""
    if clip.cameras is None:
        return np.repeat(np.eye(4)[None], len(clip), axis=0)
    return np.linalg.inv(clip.cameras[0]) @ clip.cameras


def lift(clip: ClipPlate, sky_depth: float) -> Lifted | None:
    """The clip's tracks as points in space; None where it has none.  ``sky_depth``: how far away the sky is.

    Raises `SettingsError` where a frame shows none of the points that the first one shows.
    """
    if clip.tracks is None:
        return None
    height, width = clip.depth.shape[1:]
    first = clip.visible[0] & inside(clip.tracks[0], width, height)
    if not first.any():
        raise SettingsError("None of the tracks begins inside of the clip's first picture; track its points.")
    tracks, seen = clip.tracks[:, first].astype(np.float64), clip.visible[:, first]
    gone = np.flatnonzero(~seen.any(axis=1))
    if gone.size:
        raise SettingsError(
            f"In frame {gone[0] + 1} of the clip nothing that its first picture shows is to be seen any more (or its "
            f"tracks are lost); take only the frames before (--frames {gone[0]}).",
            field="frames",
        )
    focal, poses = focal_px(clip.lens_mm, (width, height)), OPTICAL @ camera_path_of(clip) @ OPTICAL
    depth = _depths(clip, tracks, seen, poses, focal, sky_depth)
    rays = np.stack(
        [(tracks[..., 0] - width / 2.0) / focal, (tracks[..., 1] - height / 2.0) / focal, np.ones(depth.shape)], axis=-1
    )
    places = np.einsum("tij,tnj->tni", poses[:, :3, :3], rays * depth[..., None]) + poses[:, None, :3, 3]
    lifted = Lifted(tracks[0, :, :2], 1.0 / depth[0], places, seen)
    return Lifted(lifted.at, lifted.inverse, _filled(lifted), seen)


def inside(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bool [N]: which ``points`` [N,2+] px a picture of that size has."""
    x, y = points[:, 0], points[:, 1]
    with np.errstate(invalid="ignore"):
        return (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)


def _depths(clip: ClipPlate, tracks, seen, poses, focal: float, sky_depth: float) -> np.ndarray:
    """[T,N]: depth of each point in its frame; NaN where neither the track nor the frame's own depth says it."""
    height, width = clip.depth.shape[1:]
    own = tracks[..., 2]
    depth = np.where(np.isfinite(own) & (own > 0.0), own, np.nan)
    sampled = np.where(clip.valid, clip.depth, sky_depth)
    before = np.where(np.isfinite(depth[0]), depth[0], _sampled(sampled[0], tracks[0], None))
    depth[0] = before
    still = before[:, None] * np.stack(
        [(tracks[0, :, 0] - width / 2.0) / focal, (tracks[0, :, 1] - height / 2.0) / focal, np.ones(len(before))],
        axis=1,
    )
    for number in range(1, len(tracks)):
        if len(clip.depth) > 1:
            found = _sampled(sampled[number], tracks[number], before)
        else:  # as if the point stood still, whatever it does along the picture
            found = (still - poses[number, :3, 3]) @ poses[number, :3, 2]
            found = np.where(found > 0.0, found, np.nan)
        shown = seen[number] & inside(tracks[number], width, height)
        depth[number] = np.where(np.isfinite(depth[number]), depth[number], np.where(shown, found, np.nan))
        before = np.where(np.isfinite(depth[number]), depth[number], before)
    return depth


def _sampled(depth: np.ndarray, points: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """``depth`` [H,W] at ``points`` [N,2+]; ``near`` [N]: of the pixels around, the value that is nearest to it."""
    height, width = depth.shape
    known = np.nan_to_num(points[:, :2])
    x, y = (np.floor(known[:, axis]).astype(int) for axis in (0, 1))
    steps = [(0, 0)] if near is None else [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    values = np.stack([depth[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)] for dy, dx in steps])
    if near is None:
        return values[0]
    here = values[len(steps) // 2]
    apart = np.abs(np.log(values / near))
    best = np.take_along_axis(values, apart.argmin(axis=0)[None], axis=0)[0]
    is_edge = np.ptp(values, axis=0) > 0.1 * here  # elsewhere the pixel itself is right
    return np.where(is_edge, best, here)


def _filled(lifted: Lifted) -> np.ndarray:
    """The places with those that are not known led on, and over gaps."""
    places = lifted.places.copy()
    known = np.isfinite(places).all(axis=2)
    if known.all():
        return places
    beside = neighbours(lifted)
    for number in range(1, len(places)):
        lost = np.flatnonzero(~known[number])
        if not lost.size:
            continue
        step = np.where(known[number] & known[number - 1], 1.0, np.nan)[:, None] * (places[number] - places[number - 1])
        around = step[beside[lost]]
        there = np.isfinite(around).all(axis=2)
        mean = np.nansum(around, axis=1) / np.maximum(there.sum(axis=1), 1)[:, None]
        places[number, lost] = places[number - 1, lost] + mean
    return _bridged(places, known)


def _bridged(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where a point comes back elsewhere than it was led, what was led is bent evenly to end there."""
    for point in np.flatnonzero((~known).any(axis=0)):
        times = np.flatnonzero(known[:, point])
        for start, end in zip(times[:-1], times[1:], strict=True):
            if end - start > 1:
                led = places[end - 1, point] - places[start, point]
                rate = led / (end - 1 - start)
                miss = places[end, point] - (places[start, point] + rate * (end - start))
                share = (np.arange(start + 1, end) - start) / (end - start)
                places[start + 1 : end, point] += share[:, None] * miss
    return places


def neighbours(lifted: Lifted) -> np.ndarray:
    """[N,K] i64: the points nearest to each, on its own surface as far as depth tells."""
    features = np.concatenate([lifted.at / lifted.spacing, (np.log(lifted.inverse) / _SURFACE_SHARE)[:, None]], axis=1)
    offered = np.arange(0, len(features), -(-len(features) // MANY))
    count = min(_NEIGHBOURS, len(offered) - 1)
    if count < 1:
        return np.zeros((len(features), 1), np.int64)
    out = np.empty((len(features), count), np.int64)
    for start in range(0, len(features), 512):
        here = np.arange(start, min(start + 512, len(features)))
        apart = sum((features[here, axis, None] - features[offered, axis]) ** 2 for axis in range(3))
        apart[here[:, None] == offered] = np.inf
        out[here] = offered[np.argpartition(apart, count - 1, axis=1)[:, :count]]
    return out
