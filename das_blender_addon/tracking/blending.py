# SPDX-License-Identifier: GPL-3.0-or-later
"""What key pictures show of one frame, looked up and weighed against each other.

Two keys come just before and just after the frame, and share it by their distances in time.  Where they know better,
they alone are seen: inside what they show, as sharp as the frame, in a light that hardly changes until then.  Towards
the rim of what they show, and the more their light changes, all other keys join in: light is never told exactly, and
where one picture simply ended another one, that ends in a line.  At a key picture's own moment nothing joins in.

Measured (`tests/bench/bench_key_pictures.py`, 384×256, against Cycles) with three keys, without → with what is said in
the last two sentences: the demo scene 33.75 → 34.05 dB (720×480, 73 frames, ten of them between keys at 1, 37 and 73:
34.01 → 34.69), a hard shadow 38.94 → 39.50, things that cross 36.05 → 36.14, a skinned tube 49.84 → 50.08, orbits the
same within 0.03.  There is little to choose: a band half or twice as wide changes the demo by 0.01 dB, light that is
worth 0.3 or 0.7 enough by 0.03.  What is won is in the eye: crescents and bright lines at rims are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .correspondences import FrameCorrespondences
from .footprint import Footprint, footprint_at, footprint_of
from .pyramid import Pyramid
from .relighting import FrameLight, RowsLight
from .rims import RISE, bands_of, rims_of_others

#: How much belief is needed inside a surface, and at an outline.
NEEDED_INSIDE, NEEDED_AT_OUTLINE = 0.55, 0.1
#: Weight of a key that neither comes just before nor just after the frame, before its distance in time, where those two
#: know better.
DISTANT_KEY = 1e-3
#: Weights below this share of all are not looked up.
_LEAST_SHARE = 0.004
#: What the light of a key beside the frame is worth, 0 to 1, where others join in no more for it; and how much these
#: count at least, where they do.
WORTH_ENOUGH, _LEAST_JOINED = 0.5, 0.02
#: Share of the time between two keys, beside one of them, and frames beyond the last one, within which others come to
#: count wholly.
JOINED_AT, JOINED_AFTER = 0.25, 8.0
#: A pixel is doubtful that no key shows at more than this resolution, in key pixels per pixel, unless its light is
#: worth as much as that.
DOUBTFUL_RESOLUTION, DOUBTFUL_LIGHT = 0.3, 0.2


@dataclass(frozen=True)
class Blended:
    """``picture`` [H,W,3] f32, where it is ``known`` [H,W] bool; ``trust`` [H·W] f32: how far it is believed, 0 to 1.

    ``doubtful`` [H,W] bool: known, but by a key that shows it stretched and in a light that changes much.
    """

    picture: np.ndarray
    known: np.ndarray
    trust: np.ndarray
    doubtful: np.ndarray


def blended(
    frame: FrameCorrespondences,
    pyramids: Sequence[Pyramid],
    at_outline: np.ndarray,
    light: FrameLight | None,
    pixels_per_tile: int,
    painted: Sequence[np.ndarray | None] = (),
) -> Blended:
    """What the K key pictures, ``pyramids``, show of ``frame``; ``at_outline`` [H·W] bool, of the frame; ``light``: how
    theirs changes, None for not at all.  ``painted``: where each of them is, [H,W] bool, None for everywhere.
    """
    height, width = frame.coverage.shape
    in_time = time_weights(frame.index, frame.key_indices)
    near = in_time > DISTANT_KEY
    beside, others = np.flatnonzero(near), np.flatnonzero(~near & (in_time > 0.0))
    joining = np.float32(joined(frame.index, frame.key_indices))
    bands = {number: bands_of(_shown(frame, number, painted)).reshape(-1) for number in beside}
    picture, known = np.zeros((height * width, 3), np.float32), np.zeros(height * width, bool)
    trust, doubtful = np.zeros(height * width, np.float32), np.zeros(height * width, bool)
    rows = max(2, pixels_per_tile // width // 2 * 2)  # even: footprints are measured at every second pixel
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        pixels = slice(part.start * width, part.stop * width)
        tile = _Tile.of(frame, pyramids, pixels, at_outline[pixels], None if light is None else light.rows(part))
        found, weights, sure = {}, {}, np.zeros(tile.count, np.float32)
        for number in beside:
            band = bands[number][pixels]
            if band.any():
                found[number] = footprint_of(frame.xy[number], part)
                counts = band * np.float32(1.0 / 255.0)
                weights[number] = in_time[number] * counts * found[number].resolution_squared
                worth = np.minimum(tile.worth(number) * np.float32(1.0 / WORTH_ENOUGH), np.float32(1.0))
                np.maximum(sure, counts * worth, out=sure)
        tile.add_all(None, found, weights)
        unsure = (np.float32(1.0) - sure) * joining
        left = np.flatnonzero((tile.total[:, 3] <= 0.0) | (unsure > np.float32(_LEAST_JOINED)))
        if left.size and others.size:
            more = np.float32(1.0) + unsure.take(left) * np.float32(1.0 / DISTANT_KEY)
            rims = rims_of_others(frame, others, part, left)
            found = {number: footprint_at(frame.xy[number], pixels.start + left) for number in rims}
            tile.add_all(left, found, {
                number: in_time[number] * more * RISE.take(rim) * found[number].resolution_squared
                for number, rim in rims.items()
            })
        known[pixels], trust[pixels], doubtful[pixels] = tile.told(picture[pixels])
    shape = height, width
    return Blended(picture.reshape(*shape, 3), known.reshape(shape), trust, doubtful.reshape(shape))


def _shown(frame: FrameCorrespondences, number: int, painted: Sequence[np.ndarray | None]) -> np.ndarray:
    """[H,W] bool: what the key ``number`` shows of ``frame``, where it is painted."""
    visible = frame.visible[number]
    if not painted or painted[number] is None:
        return visible
    there = np.flatnonzero(visible.reshape(-1))
    places, mask = frame.xy[number].reshape(-1, 2)[there].astype(np.int64), painted[number]
    column, row = (np.clip(axis, 0, length - 1) for axis, length in zip(places.T, mask.shape[::-1], strict=True))
    shown = np.zeros(visible.size, bool)
    shown[there] = mask[row, column]
    return shown.reshape(visible.shape)


def time_weights(index: int, key_indices: Sequence[int]) -> np.ndarray:
    """[K] f32: how much each key counts for frame ``index``: 1 in all for the nearest two, little for others."""
    keys = np.asarray(key_indices, dtype=np.float64)
    weights = DISTANT_KEY * np.exp2(-np.abs(keys - index) / max(1.0, np.abs(keys - index).max()))
    before, after = keys[keys <= index], keys[keys >= index]
    if before.size and after.size:
        first, last = before.max(), after.min()
        share = 0.0 if first == last else (index - first) / (last - first)
        weights[keys == first] = 1.0 - share
        if first != last:
            weights[keys == last] = share
    else:
        nearest = before.max() if before.size else after.min()
        weights[keys == nearest] = 1.0
    return weights.astype(np.float32)


def joined(index: int, key_indices: Sequence[int]) -> float:
    """How much keys that are not beside frame ``index`` may join in, 0 to 1: not at all at a key, whose picture is what
    is seen.
    """
    before, after = ([key - index for key in key_indices if (key - index) * side >= 0] for side in (-1, 1))
    if before and after:
        first, last = -max(before), min(after)
        return min(1.0, min(first, last) / max(1, first + last) / JOINED_AT)
    return min(1.0, min(abs(key) for key in before or after) / JOINED_AFTER)


@dataclass(frozen=True)
class _Tile:
    """Some rows of ``frame``, ``count`` pixels from the flat one ``start`` on: how much belief is ``needed`` [count],
    how their ``light`` changes; ``total`` [count,4]: colours times weights and belief; ``plain`` [count]: weights
    alone; ``best`` [count]: the square of the best resolution, 1 where light is worth more.
    """

    frame: FrameCorrespondences
    pyramids: Sequence[Pyramid]
    start: int
    needed: np.ndarray
    light: RowsLight | None
    total: np.ndarray
    plain: np.ndarray
    best: np.ndarray
    changes: dict[int, np.ndarray | None] = field(default_factory=dict)

    @classmethod
    def of(cls, frame, pyramids, pixels: slice, at_outline: np.ndarray, light: RowsLight | None) -> _Tile:
        """Of the flat ``pixels``, nothing added yet; ``at_outline`` [count] bool."""
        count = pixels.stop - pixels.start
        needed = np.where(at_outline, np.float32(NEEDED_AT_OUTLINE), np.float32(NEEDED_INSIDE))
        total, plain, best = np.zeros((count, 4), np.float32), np.zeros(count, np.float32), np.zeros(count, np.float32)
        return cls(frame, pyramids, pixels.start, needed, light, total, plain, best)

    @property
    def count(self) -> int:
        """How many pixels."""
        return len(self.plain)

    def change(self, number: int) -> np.ndarray | None:
        """[count,4] f32: what colours of the key ``number`` are multiplied with, and what that is worth; None for 1."""
        if number not in self.changes:
            self.changes[number] = None if self.light is None else self.light.of(number)
        return self.changes[number]

    def worth(self, number: int) -> np.ndarray | np.float32:
        """[count] f32, or one number for all: what the light of the key ``number`` is worth here."""
        change = self.change(number)
        return np.float32(1.0) if change is None else change[:, 3]

    def add_all(self, pixels: np.ndarray | None, footprints, weights) -> None:
        """Add the ``pixels`` [P], None for all, from the keys that have ``footprints`` and ``weights`` there."""
        if not weights:
            return
        least = sum(weights.values()) * np.float32(_LEAST_SHARE)
        for number, footprint in footprints.items():
            chosen = np.flatnonzero(weights[number] > least)
            if chosen.size:
                at = chosen if pixels is None else pixels[chosen]
                self._add(at, chosen, footprint, weights[number], number)

    def _add(self, at: np.ndarray, chosen, footprint: Footprint, weights, number: int) -> None:
        """Add the pixels ``at`` [P], those that are ``chosen`` [P] of ``footprint`` and ``weights``."""
        pyramid, whole = self.pyramids[number], len(at) == self.count

        def of(values: np.ndarray) -> np.ndarray:
            return values if whole else values.take(at)

        places = of(self.frame.xy[number].view(np.complex64).reshape(-1)[self.start : self.start + self.count])
        x, y = places.real.copy(), places.imag.copy()
        scaled = np.flatnonzero(footprint.scaled.take(chosen))
        found = pyramid.look_up(x, y, 0)
        if scaled.size:
            long = chosen.take(scaled)
            step = footprint.step.take(long)
            found.view(np.complex128)[scaled] = pyramid.look_up_scaled(
                x.take(scaled), y.take(scaled), footprint.level.take(long), step.real.copy(), step.imag.copy(),
                footprint.taps.take(long),
            ).view(np.complex128)
        belief = found[3::4] * np.float32(1.0 / pyramid.full_belief)
        own, change, told = weights.take(chosen), self.change(number), np.float32(1.0)
        if change is not None:
            change = of(change.view(np.complex128)[:, 0]).view(np.float32)
            found *= change
            own *= change[3::4]
            sharp = footprint.resolution_squared.take(chosen)
            told = np.where(change[3::4] > np.float32(DOUBTFUL_LIGHT), told, sharp)
        own *= belief >= of(self.needed)
        told = told * (own > 0.0)
        found[3::4] = 1.0
        belief *= own
        found *= np.repeat(belief, 4)
        if whole:
            self.total.reshape(-1)[:] += found
            self.plain[:] += own
            np.maximum(self.best, told, out=self.best)
            return
        # Four floats at a time, which numpy moves as one number.
        packed = self.total.view(np.complex128).reshape(-1)
        found += packed.take(at).view(np.float32)
        packed[at] = found.view(np.complex128)
        self.plain[at] += own
        self.best[at] = np.maximum(self.best.take(at), told)

    def told(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Write colours into ``picture`` [count,3]; [count] each: what is known, how far it is believed, and what is
        doubtful.
        """
        known = self.total[:, 3] > 0.0
        believed = np.where(known, self.total[:, 3], np.float32(1.0))
        for channel in range(3):
            np.divide(self.total[:, channel], believed, out=picture[:, channel])
        trust = believed / np.where(known, self.plain, np.float32(np.inf))
        return known, trust, known & (self.best < np.float32(DOUBTFUL_RESOLUTION**2))
