# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture prepared for look-ups at any place and any scale, several million a second in numpy.

Level 0 has four samples per pixel, those between found by a Lanczos-3 filter; level j holds the picture without the
details that 2^j pixels cannot hold, again with four samples for each of its own.  A look-up is linear between samples
that lie twice as close as the picture needs: sharper than a Catmull-Rom cubic (at a quarter of the sampling rate it
keeps 92 % where that keeps 88 %), with 4 reads instead of 16, and without its overshoot.  Between levels it is linear,
and where a pixel's footprint is long and narrow, several look-ups along it are averaged (Williams, "Pyramidal
Parametrics", 1983; McCormack et al., "Feline", 1999).

A fourth channel says how far a sample is to be believed; it is filtered like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Lanczos-3 half-way between two samples, its sum made 1: the weights of the 1st, 2nd and 3rd neighbour on each side.
_HALF_WAY = (0.61142, -0.13590, 0.02448)
#: Half-band low-pass on the neighbours 0, 1 and 3 on each side (Lagrange): flat, and zero at the new Nyquist rate.
_HALF_BAND = (0.5, 0.28125, -0.03125)
#: Most look-ups along one footprint, and most levels.
MOST_TAPS = 8
_MOST_LEVELS = 12
_ROWS_PER_PIECE = 64
_CHANNELS = 4
_PACKED = {1: np.uint32, 2: np.uint64, 4: np.complex128}
"""Number of bytes of a channel → a type as wide as four of them, which numpy reads in one go."""


@dataclass(frozen=True)
class Pyramid:
    """Levels [h_j,w_j,4], u8 or f16, of a picture of ``width`` × ``height`` pixels.

    Sample i of level j lies at the pixel coordinate 0.5 + i · 2^(j−1).
    """

    levels: tuple[np.ndarray, ...]
    width: int
    height: int

    @classmethod
    def of(cls, colours: np.ndarray, belief: np.ndarray) -> Pyramid:
        """``colours`` [H,W,3] u8, or f32 in linear light; ``belief`` [H,W] f32, 0…1 (what is 0 is to be smooth)."""
        height, width = colours.shape[:2]
        if colours.dtype == np.uint8:
            dtype, full = np.dtype(np.uint8), 255.0
        else:
            dtype, full = np.dtype(np.float16), 1.0
        base = np.empty((height, width, _CHANNELS), dtype=dtype)
        base[..., :3] = colours if dtype == np.uint8 else np.clip(colours, -65504.0, 65504.0)
        base[..., 3] = np.rint(belief * full) if dtype == np.uint8 else belief
        levels = [_doubled(base)]
        current = base
        while len(levels) < _MOST_LEVELS and max(current.shape[:2]) > 1:
            current = _low_passed(current)
            levels.append(current)
            current = np.ascontiguousarray(current[::2, ::2])
        return cls(tuple(levels), width, height)

    @property
    def full_belief(self) -> float:
        """The value of the fourth channel for 1."""
        return 255.0 if self.levels[0].dtype == np.uint8 else 1.0

    def look_up(self, x: np.ndarray, y: np.ndarray, level: int) -> np.ndarray:
        """Samples [P·4] f32 (channel by channel, then point by point) at the pixels ``x``, ``y`` [P] f32, finite."""
        samples = self.levels[level]
        rows, columns = samples.shape[:2]
        scale = np.float32(2.0 ** (1 - level))
        u, v = (x - np.float32(0.5)) * scale, (y - np.float32(0.5)) * scale
        np.clip(u, 0.0, columns - 1, out=u)
        np.clip(v, 0.0, rows - 1, out=v)
        column = np.minimum(u.astype(np.int32), max(columns - 2, 0))
        row = np.minimum(v.astype(np.int32), max(rows - 2, 0))
        u -= column.astype(np.float32)  # of integers numpy would make float64
        v -= row.astype(np.float32)
        place = row.astype(np.int64)
        place *= columns
        place += column
        right, below = min(columns - 1, 1), columns * min(rows - 1, 1)
        packed = samples.reshape(-1).view(_PACKED[samples.itemsize])
        u, v = np.repeat(u, _CHANNELS), np.repeat(v, _CHANNELS)

        def read(offset: int) -> np.ndarray:
            found = packed[offset:].take(place, mode="wrap")  # all are in range
            return found.view(samples.dtype).astype(np.float32)

        upper, beside = read(0), read(right)
        beside -= upper
        beside *= u
        upper += beside
        lower, beside = read(below), read(below + right)
        beside -= lower
        beside *= u
        lower += beside
        lower -= upper
        lower *= v
        upper += lower
        return upper

    def look_up_scaled(self, x, y, level: np.ndarray, step_x, step_y, taps: np.ndarray) -> np.ndarray:
        """As `look_up`, [P·4] f32, at fractional ``level`` [P] f32 ≥ 0, averaged over ``taps`` [P] places.

        The places lie evenly along the line of length (``step_x``, ``step_y``) [P] f32 around the point.
        """
        result = np.zeros((len(x), _CHANNELS), dtype=np.float32)
        packed = result.view(np.complex128)[:, 0]
        level = np.minimum(level, np.float32(len(self.levels) - 1))
        lower = level.astype(np.int32)
        share = level - lower.astype(np.float32)
        for floor in range(len(self.levels)):
            here = lower == floor
            for above in (0, 1):
                weight = share if above else np.float32(1.0) - share
                chosen = np.flatnonzero(here & (weight > 0.0))
                if not chosen.size:
                    continue
                total = self._along(x, y, min(floor + above, len(self.levels) - 1), step_x, step_y, taps, chosen)
                total *= np.repeat(weight.take(chosen), _CHANNELS)
                total += packed.take(chosen).view(np.float32)
                packed[chosen] = total.view(np.complex128)
        return result.reshape(-1)

    def _along(self, x, y, level, step_x, step_y, taps, chosen) -> np.ndarray:
        counts = taps.take(chosen)
        most, total = int(counts.max()), None
        for tap in range(most):
            active = None if tap == 0 or int(counts.min()) > tap else np.flatnonzero(counts > tap)
            points, count = (chosen, counts) if active is None else (chosen.take(active), counts.take(active))
            count = count.astype(np.float32)
            along = (np.float32(tap) + np.float32(0.5)) / count - np.float32(0.5)
            found = self.look_up(
                x.take(points) + along * step_x.take(points), y.take(points) + along * step_y.take(points), level
            )
            if most > 1:
                found *= np.repeat(np.float32(1.0) / count, _CHANNELS)
            if total is None:
                total = found
            elif active is None:
                total += found
            else:
                packed = total.view(np.complex128)
                found += packed.take(active).view(np.float32)
                packed[active] = found.view(np.complex128)
        return total


def _doubled(base: np.ndarray) -> np.ndarray:
    """[H,W,4] → [2H−1,2W−1,4]: the samples and those half-way between them."""
    return _turned(_doubled_rows(_turned(_doubled_rows(base))))


def _turned(samples: np.ndarray) -> np.ndarray:
    """[H,W,4] → [W,H,4], in the order of its memory: what follows is several times faster."""
    packed = np.ascontiguousarray(samples).view(_PACKED[samples.itemsize])[..., 0]
    return np.ascontiguousarray(packed.T)[..., None].view(samples.dtype)


def _doubled_rows(base: np.ndarray) -> np.ndarray:
    count = len(base)
    doubled = np.empty((2 * count - 1, *base.shape[1:]), dtype=base.dtype)
    doubled[::2] = base
    reach = len(_HALF_WAY) - 1
    framed = np.concatenate([*[base[:1]] * reach, base, *[base[-1:]] * reach])
    for start in range(0, count - 1, _ROWS_PER_PIECE):
        rows = min(_ROWS_PER_PIECE, count - 1 - start)
        stored = framed[start : start + rows + 2 * reach + 1]
        values = stored.astype(np.float32)
        total = np.zeros((rows, *base.shape[1:]), dtype=np.float32)
        for distance, weight in enumerate(_HALF_WAY):
            for first in (reach - distance, reach + 1 + distance):
                total += np.float32(weight) * values[first : first + rows]
        # No overshoot beyond the two samples on either side: no light or dark lines along hard edges.
        near = [stored[first : first + rows] for first in (reach, reach + 1, reach - 1, reach + 2)]
        low, high = (bound.astype(np.float32) for bound in _bounds(near))
        doubled[2 * start + 1 : 2 * (start + rows) : 2] = _as_stored(np.clip(total, low, high), base.dtype)
    return doubled


def _bounds(values) -> tuple[np.ndarray, np.ndarray]:
    low = high = values[0]
    for value in values[1:]:
        low, high = np.minimum(low, value), np.maximum(high, value)
    return low, high


def _low_passed(base: np.ndarray) -> np.ndarray:
    """[H,W,4] without what half as many samples could not hold, at the same samples."""
    return _turned(_low_passed_rows(_turned(_low_passed_rows(base))))


def _low_passed_rows(base: np.ndarray) -> np.ndarray:
    count, reach = len(base), 3
    passed = np.empty_like(base)
    middle, near, far = (np.float32(weight) for weight in _HALF_BAND)
    framed = np.concatenate([*[base[:1]] * reach, base, *[base[-1:]] * reach])
    for start in range(0, count, _ROWS_PER_PIECE):
        rows = min(_ROWS_PER_PIECE, count - start)
        values = framed[start : start + rows + 2 * reach].astype(np.float32)
        total = middle * values[reach : reach + rows]
        for distance, weight in ((1, near), (3, far)):
            for first in (reach - distance, reach + distance):
                total += weight * values[first : first + rows]
        passed[start : start + rows] = _as_stored(total, base.dtype)
    return passed


def _as_stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)
    values[..., 3] = np.clip(values[..., 3], 0.0, 1.0)
    return np.clip(values, -65504.0, 65504.0).astype(dtype)
