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
PATCH = 7
LIKE = 0.60
"""Correlation of the patches round a point in the first frame and now, below which it is hidden."""
SEEN_AGAIN = 0.80
COLOUR = 32.0
NEIGHBOURS = 6


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
        tracks[0] = at = start
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        first = _Patches(clip[0], start)
        for frame in range(1, num_frames):
            asked.step(frame, num_frames)
            there = flow.calc(grey[frame - 1], grey[frame], None)
            back = flow.calc(grey[frame], grey[frame - 1], None)
            at, visible[frame] = _step(at, visible[frame - 1], there, back, clip[frame], grey, frame, first)
            tracks[frame] = at
        return {"tracks": tracks, "visible": visible}


def grid(width: int, height: int, every: int) -> np.ndarray:
    """f32 [N,2] px: the middles of every ``every``-th pixel, row by row, from the middle of the first block on."""
    x, y = np.arange(every // 2, width, every), np.arange(every // 2, height, every)
    x, y = (side if len(side) else np.array([0]) for side in (x, y))
    return np.stack(np.meshgrid(x + 0.5, y + 0.5), axis=-1).reshape(-1, 2).astype(np.float32)


def _step(at, seen, there, back, picture, grey, frame, first) -> tuple[np.ndarray, np.ndarray]:
    """The points' next places f32 [N,2], and which are seen there."""
    move = _sampled(there, at)
    after = at + move
    away = np.linalg.norm(move + _sampled(back, after), axis=1)
    good = away <= ROUND_TRIP_PX + ROUND_TRIP_SHARE * np.linalg.norm(move, axis=1)
    height, width = picture.shape[:2]
    inside = ((after >= 0) & (after < (width, height))).all(axis=1)
    after = np.where((seen & good)[:, None], after, at + _with_neighbours(first.at, at, move, seen & good))
    inside = ((after >= 0) & (after < (width, height))).all(axis=1)
    after = first.drawn_back(after, grey[0], grey[frame], seen & good & inside)
    like, colour = first.likeness(picture, after)
    is_seen = np.where(seen, good & (like > LIKE), like > SEEN_AGAIN)
    return after, inside & is_seen & (colour < COLOUR)


def _with_neighbours(start, at, move, good) -> np.ndarray:
    """f32 [N,2]: for each point the median motion of the nearest that are good; as it is where there are none."""
    if not good.any() or good.all():
        return move
    out = move.copy()
    lost = np.flatnonzero(~good)
    there = np.flatnonzero(good)
    for block in np.array_split(lost, max(1, len(lost) * len(there) // 4_000_000)):
        distance = ((start[block, None] - start[None, there]) ** 2).sum(axis=-1)
        nearest = np.argpartition(distance, min(NEIGHBOURS, len(there) - 1), axis=1)[:, :NEIGHBOURS]
        out[block] = np.median(move[there][nearest], axis=1)
    return out


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
