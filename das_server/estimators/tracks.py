# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip → tracks, without weights: optical flow from frame to frame, chained, and held to what the first frame shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .flow import Flow

EVERY = 8
ROUND_TRIP_PX = 0.7
ROUND_TRIP_SHARE = 0.06
"""A step whose way there and back ends farther away than this, and this share of its length, is lost."""
ROW = 1024
LOT = 4_000_000
"""Places that are looked up at once, in rows that OpenCV takes."""
MOST_GUIDES = 4000
"""Points that hidden ones go with, evenly chosen where there are more."""
NEAR = 64
FLAT_PX = 8.0
"""Neighbours nearer to each other than this say nothing of how they turn and grow."""
PATCH = 7
LIKE = 0.60
"""Correlation of the patches round a point in the first frame and now, below which it is hidden."""
SEEN_AGAIN = 0.80
COLOUR = 32.0
BESIDE, ALIKE, FEWEST = 24, 8, 3
"""Of the nearest guides that are seen, a hidden point goes with those whose motion was most like its own."""


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
        flow = Flow()
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        first, guides = _Patches(clip[0], start), _Guides(start)
        last_seen = np.zeros(len(start), int)
        for frame in range(1, num_frames):
            asked.step(frame, num_frames)
            there = flow.between(grey[frame - 1], grey[frame])
            back = flow.between(grey[frame], grey[frame - 1])
            after, good = _followed(tracks[frame - 1], there, back)
            good &= visible[frame - 1]
            after = guides.carried(tracks, after, good, last_seen)
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


def _sampled(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """f32 [N,C]: ``field`` [H,W,C] at the places ``at`` f32 [N,2] px, bilinear."""
    import cv2

    rows = -(-len(at) // ROW)
    places = np.zeros((rows * ROW, 2), np.float32)
    places[: len(at)] = at - 0.5
    x, y = (np.ascontiguousarray(part) for part in places.reshape(rows, ROW, 2).transpose(2, 0, 1))
    sampled = cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(rows * ROW, -1)[: len(at)].astype(np.float32)


class _Guides:
    """Which points beside them the points of a `grid`, ``start`` f32 [N,2] px, go with while they are hidden."""

    def __init__(self, start: np.ndarray):
        self._start = start
        columns = max(1, int((start[:, 1] == start[0, 1]).sum()))
        rows = len(start) // columns
        step = int(np.ceil(np.sqrt(len(start) / MOST_GUIDES)))
        number = np.arange(len(start)).reshape(rows, columns)
        guides = number[step // 2 :: step, step // 2 :: step]
        row = np.minimum(np.arange(rows) // step, guides.shape[0] - 1)
        column = np.minimum(np.arange(columns) // step, guides.shape[1] - 1)
        self._cell = (row[:, None] * guides.shape[1] + column).ravel()
        guides = guides.ravel()
        near = []
        for block in np.array_split(guides, len(guides) // 500 + 1):
            away = ((start[block, None] - start[None, guides]) ** 2).sum(axis=-1)
            near.append(guides[np.argsort(away, axis=1, kind="stable")[:, :NEAR]])
        self._near = np.concatenate(near)

    def carried(self, tracks: np.ndarray, after: np.ndarray, good: np.ndarray, last_seen: np.ndarray) -> np.ndarray:
        """``after`` f32 [N,2], where those that are not ``good`` go as guides beside them do that are, and that went as
        they did until they were last seen, at the frames ``last_seen`` [N] of ``tracks`` f32 [T,N,2]."""
        lost = np.flatnonzero(~good)
        if not len(lost):
            return after
        beside, since = self._near[self._cell[lost]], last_seen[lost]
        seen = good[beside]
        seen &= np.cumsum(seen, axis=1) <= BESIDE
        then, own = tracks[since[:, None], beside], tracks[since, lost]
        unlike = (((own - self._start[lost])[:, None] - (then - self._start[beside])) ** 2).sum(axis=-1)
        unlike[~seen] = np.inf
        order = np.argsort(unlike, axis=1, kind="stable")[:, :ALIKE]
        before, now = (np.take_along_axis(part, order[..., None], axis=1) for part in (then, after[beside]))
        counts = np.take_along_axis(seen, order, axis=1)
        out = after.copy()
        enough = counts.sum(axis=1) >= FEWEST
        out[lost[enough]] = _bent(own[enough], before[enough], now[enough], counts[enough])
        return out


def _bent(own: np.ndarray, before: np.ndarray, now: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """f32 [L,2]: where ``own`` [L,2] is, when points ``before`` [L,K,2] are at ``now`` [L,K,2]; ``counts`` [L,K]: which
    of them count."""
    weight = counts[..., None] / counts.sum(axis=1)[:, None, None]
    middle, middle_now = (before * weight).sum(axis=1), (now * weight).sum(axis=1)
    before = (before - middle[:, None]) * counts[..., None]
    change = (now - middle_now[:, None]) * counts[..., None] - before
    squares = np.einsum("lki,lkj->lij", before, before) + np.eye(2) * FLAT_PX**2
    bend = np.linalg.solve(squares, np.einsum("lki,lkj->lij", before, change))
    away = own - middle
    return middle_now + away + np.einsum("li,lij->lj", away, bend)


class _Patches:
    """What the first frame shows round the points ``at`` f32 [N,2] px."""

    def __init__(self, picture: np.ndarray, at: np.ndarray):
        self.at = at
        self._offsets = np.stack(np.meshgrid(*[np.arange(PATCH) - PATCH // 2] * 2), axis=-1).reshape(-1, 2)
        self._own = self._cut(picture, at)

    def _cut(self, picture: np.ndarray, at: np.ndarray) -> np.ndarray:
        """f32 [N,P,3]"""
        places = (at[:, None] + self._offsets[None]).reshape(-1, 2).astype(np.float32)
        rows = [_sampled(picture, part) for part in np.array_split(places, len(places) // LOT + 1)]
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
