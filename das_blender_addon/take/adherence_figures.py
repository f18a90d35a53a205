# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of points, counted up into the figures of a frame, an object, a window and a take.  No Blender in here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

OFF_SHARE = 0.01
"""A point that is off by more than this share of the picture's height is off."""
FEWEST = 0.05
"""Figures are told where at least this share of the points that a key picture shows has texture to be found by."""
BIN_PX, BINS = 1.0 / 32.0, 8192
"""Percentiles are exact to a bin; the last one holds what is farther away."""


@dataclass
class Tally:
    """Errors of the points of one thing.  ``height``: of the picture, pixels."""

    height: int
    seen: int = 0
    lost: int = 0
    total: float = 0.0
    off: int = 0
    levels: float = 0.0
    bins: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, errors: np.ndarray, levels: np.ndarray) -> None:
        """``errors`` [P] f32, pixels, of points that a key picture shows: NaN where there is no texture, infinite where
        they are not found again.  ``levels`` [P]: by which their colours are other than predicted."""
        self.levels += float(levels.sum(dtype=np.float64))
        found = errors[np.isfinite(errors)].astype(np.float64)
        self.seen += errors.size
        self.lost += int(np.isinf(errors).sum())
        self.total += float(found.sum())
        self.off += int((found > OFF_SHARE * self.height).sum())
        places = np.minimum(found / BIN_PX, BINS - 1).astype(np.int64)
        self.bins += np.bincount(places, minlength=BINS)

    def figures(self) -> dict:
        """``mean_px``, ``p95_px`` of the points that are found again; ``off``: share that is off or lost; ``lost``:
        share that is not found again; None where too little has texture.  ``counted``: share that has texture.
        ``colour``: mean levels (0 to 255) by which all that is shown is other than predicted; None where nothing is."""
        colour = round(self.levels / self.seen, 3) if self.seen else None
        found = int(self.bins.sum())
        counted = found + self.lost
        share = counted / self.seen if self.seen else 0.0
        if not counted or share < FEWEST:
            nothing = dict.fromkeys(("mean_px", "p95_px", "off", "lost"))
            return {**nothing, "counted": round(share, 4), "colour": colour}
        return {
            "mean_px": round(self.total / found, 3) if found else None,
            "p95_px": round(self._percentile(0.95, found), 3) if found else None,
            "off": round((self.off + self.lost) / counted, 4),
            "lost": round(self.lost / counted, 4),
            "counted": round(share, 4),
            "colour": colour,
        }

    def _percentile(self, share: float, found: int) -> float:
        """Linear within the bin."""
        reached = np.cumsum(self.bins)
        wanted = share * found
        place = int(np.searchsorted(reached, wanted))
        before = float(reached[place - 1]) if place else 0.0
        return (place + (wanted - before) / max(int(self.bins[place]), 1)) * BIN_PX


@dataclass
class Means:
    """Errors and colours of one object in one frame."""

    found: int = 0
    total: float = 0.0
    seen: int = 0
    levels: float = 0.0

    def add(self, errors: np.ndarray, levels: np.ndarray) -> None:
        """As `Tally.add`."""
        found = errors[np.isfinite(errors)]
        self.found, self.total = self.found + found.size, self.total + float(found.sum(dtype=np.float64))
        self.seen, self.levels = self.seen + errors.size, self.levels + float(levels.sum(dtype=np.float64))

    def figures(self) -> dict:
        """``mean_px``: None where nothing is found; ``colour``; ``points``: how many are shown."""
        mean = round(self.total / self.found, 3) if self.found else None
        return {"mean_px": mean, "colour": round(self.levels / max(self.seen, 1), 3), "points": self.seen}


@dataclass
class Flicker:
    """Mean levels (0 to 255) by which a surface differs from itself in the frame before."""

    total: float = 0.0
    count: int = 0

    def add(self, now: np.ndarray, then: np.ndarray, before: np.ndarray, where: np.ndarray) -> None:
        """``now``, ``then`` [H,W,3] u8: a frame and the one before; ``before`` [H,W,2] f32: where the points lay then;
        ``where`` [H,W] bool: they are seen in both."""
        if where.any():
            change = np.abs(now[where].astype(np.float32) - sampled(then, before[where]))
            self.total += float(change.mean(axis=1).sum())
            self.count += len(change)

    @property
    def levels(self) -> float | None:
        """None where nothing was seen twice."""
        return round(self.total / self.count, 3) if self.count else None


def sampled(picture: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """f32 [P,3]: ``picture`` [H,W,3] u8 at the places ``xy`` [P,2] px (centres at +0.5), bilinear."""
    height, width = picture.shape[:2]
    x, y = (np.clip(xy[:, axis] - 0.5, 0.0, side - 1.0) for axis, side in ((0, width), (1, height)))
    left, top = np.minimum(x.astype(np.int64), max(width - 2, 0)), np.minimum(y.astype(np.int64), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    along, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    upper = picture[top, left] * (1.0 - along) + picture[top, right] * along
    lower = picture[bottom, left] * (1.0 - along) + picture[bottom, right] * along
    return (upper * (1.0 - down) + lower * down).astype(np.float32)


def score(report: dict) -> float:
    """How far a take is from its animation, smaller is better: the mean error in per cent of the height, where a point
    that is lost counts as twice as far as one may be off, and the flicker beyond that of the prediction in per cent of
    white.  Infinite for a take that nothing can be told of."""
    if report.get("lost") is None:
        return float("inf")
    error = 100.0 * (report["mean_px"] or 0.0) / report["height"]
    error = (1.0 - report["lost"]) * error + report["lost"] * 100.0 * 2.0 * OFF_SHARE
    beyond = max(0.0, (report.get("flicker") or 0.0) - (report.get("flicker_expected") or 0.0))
    return error + 100.0 * beyond / 255.0


def worst_window(report: dict) -> int | None:
    """The number, from 1 on, of the window with the worst figures; None where there are none."""
    height = report["height"]
    known = [(score({**one, "height": height}), -one["number"]) for one in report["windows"] if one["lost"] is not None]
    return -max(known)[1] if known else None
