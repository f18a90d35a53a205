# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip → tracks, without weights: optical flow from frame to frame, chained, and held to what the first frame shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked

EVERY = 8
ROUND_TRIP_PX = 0.7
ROUND_TRIP_SHARE = 0.06
"""A step whose way there and back ends farther away than this, and this share of its length, is lost."""
FLAT_PX = 8.0
"""Neighbours nearer to each other than this say nothing of how they turn and grow."""
PATCH = 7
LIKE = 0.60
"""Correlation of the patches round a point in the first frame and now, below which it is hidden."""
SEEN_AGAIN = 0.80
COLOUR = 32.0
BESIDE, ALIKE = 24, 8
"""A hidden point goes with so many of the nearest: those whose motion was most like its own."""


def load(spec: EstimatorSpec, folder: Path, device: str) -> Tracks:
    """Nothing to load."""
    return Tracks()


class Tracks:
    """Dense flow (OpenCV's DIS), both ways, from each frame to the next."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``tracks`` f32 [T,N,2] px (pixels' centres at +0.5), ``visible`` bool [T,N], of every ``every``-th pixel of
        the first frame in rows and columns."""
        import cv2

        clip, every = asked.clip, int(asked.options.get("every", EVERY))
        num_frames, height, width = clip.shape[:3]
        start = grid(width, height, every)
        tracks = np.empty((num_frames, len(start), 2), np.float32)
        visible = np.ones((num_frames, len(start)), bool)
        tracks[0] = start
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        first, last_seen = _Patches(clip[0], start), np.zeros(len(start), int)
        for frame in range(1, num_frames):
            asked.step(frame, num_frames)
            there = flow.calc(grey[frame - 1], grey[frame], None)
            back = flow.calc(grey[frame], grey[frame - 1], None)
            after, good = _followed(tracks[frame - 1], there, back)
            good &= visible[frame - 1]
            after = _with_those_beside(tracks, frame, after, good, last_seen)
            inside = ((after >= 0) & (after < (width, height))).all(axis=1)
            after = first.drawn_back(after, grey[0], grey[frame], inside)
            like, colour = first.likeness(clip[frame], after)
            is_seen = np.where(good, like > LIKE, like > SEEN_AGAIN) & (colour < COLOUR) & inside
            tracks[frame], visible[frame] = after, is_seen
            last_seen[is_seen] = frame
        return {"tracks": tracks, "visible": visible}


def grid(width: int, height: int, every: int) -> np.ndarray:
    """f32 [N,2] px: the middles of every ``every``-th pixel, row by row, from the middle of the first block on."""
    x, y = np.arange(every // 2, width, every), np.arange(every // 2, height, every)
    x, y = (side if len(side) else np.array([0]) for side in (x, y))
    return np.stack(np.meshgrid(x + 0.5, y + 0.5), axis=-1).reshape(-1, 2).astype(np.float32)


def _followed(at: np.ndarray, there: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where the flow brings the points f32 [N,2], whether the flow back agrees [N])."""
    move = _sampled(there, at)
    away = np.linalg.norm(move + _sampled(back, at + move), axis=1)
    return at + move, away <= ROUND_TRIP_PX + ROUND_TRIP_SHARE * np.linalg.norm(move, axis=1)


def _with_those_beside(tracks, frame, after, good, last_seen) -> np.ndarray:
    """``after`` f32 [N,2], where those that are not ``good`` go with the points beside them that went as they did
    until they were last seen."""
    if good.all() or not good.any():
        return after
    out, there = after.copy(), np.flatnonzero(good)
    for since in np.unique(last_seen[~good]):
        lost = np.flatnonzero(~good & (last_seen == since))
        for block in np.array_split(lost, len(lost) * len(there) // 4_000_000 + 1):
            out[block] = _carried(tracks[0], tracks[since], after, block, there)
    return out


def _carried(start, then, now, lost, there) -> np.ndarray:
    """f32 [L,2]: where the points ``lost`` are now, seen last at ``then``; ``there`` are where they should be."""
    far = ((start[lost, None] - start[None, there]) ** 2).sum(axis=-1)
    beside = there[np.argpartition(far, min(BESIDE, len(there)) - 1, axis=1)[:, :BESIDE]]
    went = then - start
    unlike = ((went[lost, None] - went[beside]) ** 2).sum(axis=-1)
    alike = np.take_along_axis(beside, np.argsort(unlike, axis=1, kind="stable")[:, :ALIKE], axis=1)
    before, after = then[alike], now[alike]
    middle, middle_now = np.median(before, axis=1, keepdims=True), np.median(after, axis=1, keepdims=True)
    before, change = before - middle, (after - middle_now) - (before - middle)
    squares = np.einsum("lki,lkj->lij", before, before) + np.eye(2) * FLAT_PX**2
    bend = np.linalg.solve(squares, np.einsum("lki,lkj->lij", before, change))
    away = then[lost] - middle[:, 0]
    return middle_now[:, 0] + away + np.einsum("li,lij->lj", away, bend)


def _sampled(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """f32 [N,C]: ``field`` [H,W,C] at the places ``at`` f32 [N,2] px, bilinear."""
    import cv2

    x, y = np.ascontiguousarray(at[:, 0] - 0.5), np.ascontiguousarray(at[:, 1] - 0.5)
    sampled = cv2.remap(field, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled[0].astype(np.float32)


class _Patches:
    """What the first frame shows round the points ``at`` f32 [N,2] px."""

    def __init__(self, picture: np.ndarray, at: np.ndarray):
        self.at = at
        self._offsets = np.stack(np.meshgrid(*[np.arange(PATCH) - PATCH // 2] * 2), axis=-1).reshape(-1, 2)
        self._own = self._cut(picture, at)

    def _cut(self, picture: np.ndarray, at: np.ndarray) -> np.ndarray:
        """f32 [N,P,3]"""
        places = (at[:, None] + self._offsets[None]).reshape(-1, 2).astype(np.float32)
        rows = [_sampled(picture, part) for part in np.array_split(places, len(places) // 30000 + 1)]
        return np.concatenate(rows).reshape(len(at), -1, 3)

    def likeness(self, picture: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(correlation [N] of the patches now and in the first frame, distance [N] of their mean colours)."""
        now, own = self._cut(picture, at), self._own
        colour = np.abs(now.mean(axis=1) - own.mean(axis=1)).max(axis=1)
        a, b = (
            part.reshape(len(at), -1) - part.reshape(len(at), -1).mean(axis=1, keepdims=True) for part in (now, own)
        )
        flat = 4.0 * np.sqrt(a.shape[1])
        like = ((a * b).sum(axis=1) + flat**2) / np.sqrt(
            ((a**2).sum(axis=1) + flat**2) * ((b**2).sum(axis=1) + flat**2)
        )
        return like, colour

    def drawn_back(self, at: np.ndarray, before: np.ndarray, now: np.ndarray, which: np.ndarray) -> np.ndarray:
        """``at`` without the drift of the chain: moved by up to a pixel or two to where the first frame's patch is."""
        import cv2

        if not which.any():
            return at
        own, start = np.ascontiguousarray(self.at[which] - 0.5), np.ascontiguousarray(at[which] - 0.5)
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.02)
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            before, now, own, start.copy(), winSize=(15, 15), maxLevel=0, criteria=criteria,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW, minEigThreshold=1e-3,
        )  # fmt: skip
        near = (status[:, 0] > 0) & (np.linalg.norm(found - start, axis=1) < 2.0)
        out = at.copy()
        out[which] = np.where(near[:, None], found, start) + 0.5
        return out
