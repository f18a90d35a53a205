# SPDX-License-Identifier: GPL-3.0-or-later
"""Fill holes in a picture from what is around them, each surface from its own kind: nothing in front bleeds into it.

Known colours are collected in a coarse grid over place *and* depth (Chen et al., "Real-time Edge-Aware Image Processing
with the Bilateral Grid", 2007), spread over it by pulling and pushing (Gortler et al., "The Lumigraph", 1996), and read
where the holes are.  Thin holes, and the rims of others, continue the very pixels beside them.  With a ``painting`` to
fill with, the same is done to its difference from the known pixels: its details stay, its tone joins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .projection import BEYOND
from .rims import around

#: Cells along the picture's longer side, at most, and layers of depth; the sky is one more.
_MOST_CELLS = 180
_SMALLEST_CELL_PX = 4
#: Pictures up to this many pixels a side are collected whole, larger ones at every second pixel of every second row.
_EVERY_PIXEL_UP_TO = 512
_LAYERS = 16
#: How much of its neighbours in depth a layer takes at every level where it knows nothing itself.
_LEAK = 0.02
#: Share of the picture that the known part of the sky has at least for all of the sky to have its tone; and how many
#: of four cells of it must be known for the larger one that they make to have their tone alone.  Where the known sky
#: leaves the view, the rest loses its tone gradually, and not in the one frame in which the last pixel goes: in 130
#: frames of a turn by 90° from the first frame alone that frame changed by 3.7 times the median (with 0 and 1); now
#: none does by more than the fastest part of the turn, 1.5.
_SKY_SHARE, _SKY_ENOUGH = 0.04, 2.0
#: How many pixels into a hole the pixels beside it are continued, and how much of them is left after each.
_RIM_PX = 6
_RIM_FALLOFF = 0.75
#: Depths that differ by less than this share are of one surface, for continuing it.
_RIM_DEPTH_SHARE = 0.03
#: How far from a pixel at an outline clean colours are looked for, pixels.
_CLEAN_REACH_PX = 2
#: Share of a neighbour, on each side and axis, in a pixel at an outline.  Of 0, 0.07, 0.1 and 0.13 the larger are
#: better on orbits (41.2 against 39.9 dB where a key shows the surface, 90°), the smaller on a skinned tube before what
#: stands still (50.4 dB at 0.07, 49.7 at 0.13).
SOFTNESS = 0.12
#: How many pixels beside doubtful ones, at an outline or a hole, are as doubtful: what resolution they have is measured
#: at every second pixel.
_AS_DOUBTFUL_PX = 2
#: Of a doubtful pixel that is continued, how much of it is left after each, and depths that are of one surface.
_SLIVER_FALLOFF, _SLIVER_DEPTH_SHARE = 0.95, 0.08
_PIXELS_PER_PIECE = 1 << 15
_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)


def fill_holes(
    picture: np.ndarray, known: np.ndarray, inverse_depth: np.ndarray, painting: np.ndarray | None = None
) -> None:
    """Fill ``picture`` [H,W,3] f32 in place where it is not ``known`` [H,W] bool.

    ``inverse_depth`` [H,W] f32: 1/Blender units, 0 for the sky.  ``painting`` [H,W,3] f32: what the holes show, its
    tone matched to the surroundings; None to continue the surroundings.  Where nothing is known, the painting itself is
    left, or grey: the mean of nothing is 0.
    """
    holes = np.flatnonzero(~known.reshape(-1))
    if not holes.size:
        return
    flat = picture.reshape(-1, 3)
    wanted = painting.reshape(-1, 3)[holes] if painting is not None else None
    if holes.size == known.size:
        flat[holes] = 0.0 if wanted is None else wanted
        return
    grid = _Grid(inverse_depth)
    values = grid.read(grid.spread(picture, painting, known, holes), holes)
    _continue_rims(values, holes, picture, known, inverse_depth, painting)
    flat[holes] = values if wanted is None else values + wanted


def mend_slivers(
    picture: np.ndarray, doubtful: np.ndarray, known: np.ndarray, at_outline: np.ndarray, inverse_depth: np.ndarray
) -> None:
    """Let the ``doubtful`` pixels [H,W] bool of ``picture`` [H,W,3] f32 continue the sure ones of their surface beside
    them, a few pixels far: where that reaches none, they stay.

    ``known`` [H,W] bool: shown by a key picture; ``at_outline`` [H,W] bool; ``inverse_depth`` [H,W] f32: 1/Blender
    units.
    """
    if not doubtful.any():
        return
    beside = around(doubtful, _AS_DOUBTFUL_PX) > 0
    doubtful = doubtful | beside & known & (around(at_outline | ~known, _AS_DOUBTFUL_PX) > 0)
    places = np.flatnonzero(doubtful.reshape(-1))
    values = picture.reshape(-1, 3)[places]
    _continue_rims(
        values, places, picture, known & ~doubtful, inverse_depth, None, _SLIVER_FALLOFF, _SLIVER_DEPTH_SHARE
    )
    picture.reshape(-1, 3)[places] = values


def large_parts(values: np.ndarray, known: np.ndarray, inverse_depth: np.ndarray, cell: int) -> np.ndarray:
    """[H,W,3] f32: ``values`` [H,W,3] f32 where they are ``known`` [H,W] bool, without what is smaller than about
    ``cell`` pixels, everywhere: each surface from its own kind, as in `fill_holes`.
    """
    if not known.any():
        return np.zeros_like(values)
    grid = _Grid(inverse_depth, cell)
    spread, found = grid.spread(values, None, known), np.empty((known.size, 3), dtype=np.float32)
    for start in range(0, known.size, _PIXELS_PER_PIECE):
        piece = np.arange(start, min(start + _PIXELS_PER_PIECE, known.size))
        found[piece] = grid.read(spread, piece)
    return found.reshape(values.shape)


class _Grid:
    """Cells over place and depth for one frame."""

    def __init__(self, inverse_depth: np.ndarray, cell: int = 0):
        height, width = inverse_depth.shape
        self.cell = cell or max(_SMALLEST_CELL_PX, -(-max(height, width) // _MOST_CELLS))
        self.rows, self.columns = -(-height // self.cell), -(-width // self.cell)
        self.width = width
        surface = inverse_depth[inverse_depth > 1.0 / BEYOND]  # backgrounds are in the farthest layer
        low, high = (float(surface.min()), float(surface.max())) if surface.size else (1.0, 1.0)
        self.low, self.octaves = low, max(np.log2(high / low), 1e-6)
        self.inverse_depth = inverse_depth.reshape(-1)

    def layer(self, pixels: np.ndarray) -> np.ndarray:
        """Layers [P] f32 of flat ``pixels``: 0…LAYERS−1 from far to near, LAYERS for the sky."""
        inverse = self.inverse_depth.take(pixels)
        near = np.log2(np.maximum(inverse, self.low) / self.low) / self.octaves * (_LAYERS - 1)
        return np.where(inverse > 0.0, np.minimum(near, _LAYERS - 1), _LAYERS).astype(np.float32)

    def spread(self, picture, painting, known, pixels=None) -> _Spread:
        """The known pixels' means, everywhere, or where the flat ``pixels`` need them."""
        height, width = known.shape
        step = 1 if max(height, width) <= _EVERY_PIXEL_UP_TO else 2
        some = np.zeros_like(known)
        some[::step, ::step] = known[::step, ::step]
        sources = np.flatnonzero(some.reshape(-1))
        if not sources.size:
            sources = np.flatnonzero(known.reshape(-1))
        values = [picture.reshape(-1).take(3 * sources + channel) for channel in range(3)]
        if painting is not None:
            for channel in range(3):
                values[channel] -= painting.reshape(-1).take(3 * sources + channel)
        layer = self.layer(sources)
        lower = layer.astype(np.int64)
        share = (layer - lower).astype(np.float64)
        row, column = np.divmod(sources, width)
        cell = (row // self.cell) * self.columns + column // self.cell
        layer_cells = self.rows * self.columns
        place = np.concatenate([lower * layer_cells + cell, np.minimum(lower + 1, _LAYERS) * layer_cells + cell])
        weight = np.concatenate([1.0 - share, share])
        sums = np.empty((4, (_LAYERS + 1) * layer_cells), np.float32)
        for channel in range(3):
            sums[channel] = np.bincount(place, weight * np.tile(values[channel], 2), sums.shape[1])
        sums[3] = np.bincount(place, weight, sums.shape[1])
        sums *= np.where(sums[3] < 1e-3, np.float32(0.0), np.float32(1.0) / np.maximum(sums[3], np.float32(1.0)))
        sums = sums.reshape(4, _LAYERS + 1, self.rows, self.columns)
        cells = None
        if pixels is not None:
            is_read = np.zeros(sums[0].size, bool)
            for places in self._places(pixels)[0]:
                for place in places:
                    is_read[place] = True
            cells = np.flatnonzero(is_read)
        return _Spread.of(_pull_push(sums, cells), cells, sums[0].size)

    def _places(self, pixels: np.ndarray) -> tuple[list[list[np.ndarray]], np.ndarray, np.ndarray, np.ndarray]:
        """The cells around flat ``pixels`` [P]: for each of two layers the flat numbers [P] of four, upper ones first;
        and how far they are on the way to the second layer, the lower row and the right column, [P,1] f32 each.
        """
        layer = self.layer(pixels)
        row, column = np.divmod(pixels, self.width)
        ways = []
        for pixel, count in ((row, self.rows), (column, self.columns)):
            position = np.clip((pixel + 0.5) / self.cell - 0.5, 0.0, count - 1.0)
            floor = np.minimum(position.astype(np.int64), max(count - 2, 0))
            ways.append((floor, np.minimum(floor + 1, count - 1), (position - floor).astype(np.float32)[:, None]))
        (top, bottom, down), (left, right, across) = ways
        lower = np.floor(layer).astype(np.int64)
        places = []
        for index in (lower, np.minimum(lower + 1, _LAYERS)):
            first = index * (self.rows * self.columns)
            upper, under = first + top * self.columns, first + bottom * self.columns
            places.append([upper + left, upper + right, under + left, under + right])
        return places, (layer - lower)[:, None], down, across

    def read(self, spread: _Spread, pixels: np.ndarray) -> np.ndarray:
        """[P,3] f32: ``spread`` at flat ``pixels`` [P], linear in place and depth."""
        places, share, down, across = self._places(pixels)
        total = np.zeros((len(pixels), 3), dtype=np.float32)
        for corners, weight in zip(places, (1.0 - share, share), strict=True):
            upper_left, upper_right, under_left, under_right = (spread.at(place) for place in corners)
            upper = upper_left * (1 - across) + upper_right * across
            under = under_left * (1 - across) + under_right * across
            total += weight * (upper * (1 - down) + under * down)
        return total


@dataclass(frozen=True)
class _Spread:
    """``values`` [K,3] f32 of cells; ``numbers`` [LAYERS+1 · rows · columns] i32: which, None for all in order."""

    values: np.ndarray
    numbers: np.ndarray | None

    @classmethod
    def of(cls, values: np.ndarray, cells: np.ndarray | None, count: int) -> _Spread:
        """``values`` [3,K] of the flat ``cells`` [K] of ``count``, None for all."""
        numbers = None
        if cells is not None:
            numbers = np.empty(count, np.int32)
            numbers[cells] = np.arange(len(cells), dtype=np.int32)
        return cls(np.ascontiguousarray(values.reshape(3, -1).T), numbers)

    def at(self, cells: np.ndarray) -> np.ndarray:
        """[P,3] f32 of the flat ``cells`` [P]."""
        return self.values.take(cells if self.numbers is None else self.numbers.take(cells), axis=0)


def _pull_push(sums: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
    """``sums`` [4,Z,h,w] f32, colours times weight and weight ≤ 1 → [3,Z,h,w] colours everywhere, or [3,K] in the flat
    ``cells`` [K].
    """
    levels = [sums]
    while max(levels[-1].shape[2:]) > 1:
        levels.append(_halved(levels[-1]))
    known_sky = float(sums[3, -1].sum()) / sums[3, -1].size
    filled = _across_layers(levels[-1], min(1.0, known_sky / _SKY_SHARE))
    for level in reversed(levels[:-1] if cells is None else levels[1:-1]):
        filled = _enlarged(filled, level.shape[2:])
        filled *= np.float32(1.0) - level[3]
        filled += level[:3]
    if cells is None:
        return filled
    found = sums.reshape(4, -1).take(cells, axis=1)
    if len(levels) == 1:
        return filled.reshape(3, -1).take(cells, axis=1)
    return _enlarged_at(filled, sums.shape[1:], cells) * (np.float32(1.0) - found[3]) + found[:3]


def _enlarged_at(values: np.ndarray, shape: tuple[int, int, int], cells: np.ndarray) -> np.ndarray:
    """[3,K]: `_enlarged` ``values`` [3,Z,h,w] of ``shape`` (Z, height, width) in the flat ``cells`` [K]."""
    height, width = values.shape[2:]
    rest, column = np.divmod(cells, shape[2])
    layer, row = np.divmod(rest, shape[1])
    (near_row, far_row), (near_column, far_column) = (
        (place // 2, np.clip(place // 2 + place % 2 * 2 - 1, 0, count - 1))
        for place, count in ((row, height), (column, width))
    )
    flat, first = values.reshape(3, -1), layer * height
    near, far = np.float32(0.75), np.float32(0.25)
    of_columns = [
        near * flat.take((first + near_row) * width + place, axis=1)
        + far * flat.take((first + far_row) * width + place, axis=1)
        for place in (near_column, far_column)
    ]
    return near * of_columns[0] + far * of_columns[1]


def _halved(sums: np.ndarray) -> np.ndarray:
    height, width = sums.shape[2:]
    total = sums[:, :, ::2, ::2].copy()
    total[:, :, : height // 2] += sums[:, :, 1::2, ::2]
    total[:, :, :, : width // 2] += sums[:, :, ::2, 1::2]
    total[:, :, : height // 2, : width // 2] += sums[:, :, 1::2, 1::2]
    leaked = total.copy()
    leaking = total[:, :-1] * np.float32(_LEAK)
    leaked[:, 1:-1] += leaking[:, :-1]  # between surfaces only: the sky, the last layer, keeps to itself
    leaked[:, :-2] += leaking[:, 1:]
    enough = np.ones((len(leaked[3]), 1, 1), np.float32)
    enough[-1] = _SKY_ENOUGH
    leaked /= np.maximum(leaked[3], enough)
    return leaked


def _across_layers(sums: np.ndarray, sky_counts: float) -> np.ndarray:
    """[4,Z,1,1] → [3,Z,1,1]: each layer's colour, of the nearest known layers where it has none; for the sky, the last
    layer, as far as its own ``sky_counts``, 0 to 1.
    """
    weights = sums[3, :, 0, 0]
    layers = np.arange(len(weights), dtype=np.float32)
    kernel = 1e-3 * np.exp2(-np.abs(layers[:, None] - layers[None, :])) + np.eye(len(weights), dtype=np.float32)
    mixed = np.einsum("zy,cy->cz", kernel, sums[:, :, 0, 0])
    found = mixed[:3] / np.maximum(mixed[3], 1e-12)
    if sky_counts < 1.0:
        others = kernel[-1, :-1] @ sums[:, :-1, 0, 0].T
        if others[3] > 0.0:
            found[:, -1] = sky_counts * found[:, -1] + (1.0 - sky_counts) * others[:3] / others[3]
    return found[:, :, None, None].astype(np.float32)


def _enlarged(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[3,Z,h,w] at twice the size (cut to ``shape``), linear between the cells' centres."""
    for axis, count in ((2, shape[0]), (3, shape[1])):
        near, far = np.float32(0.75) * values, np.float32(0.25) * values
        larger = np.empty((*values.shape[:axis], count, *values.shape[axis + 1 :]), values.dtype)
        ways = (np.moveaxis(array, axis, 0) for array in (near, far, larger))
        near, far, places = ways
        np.add(near[0], far[0], out=places[0])
        np.add(near[1 : (count + 1) // 2], far[: (count - 1) // 2], out=places[2::2])
        odd = places[1::2]
        inside = min(len(odd), len(near) - 1)
        np.add(near[:inside], far[1 : inside + 1], out=odd[:inside])
        if inside < len(odd):
            np.add(near[-1], far[-1], out=odd[-1])
        values = larger
    return values


def clear_outlines(picture: np.ndarray, places: np.ndarray, inverse_depth: np.ndarray) -> None:
    """Keep the flat pixels ``places`` [P] of ``picture`` [H,W,3] f32 within the colours that are around them now.

    Such a pixel shows its surface mixed with what was behind it in a key picture.  Where that is still behind it, the
    mixture is right, and lies between the clean colours of both surfaces; a colour from elsewhere does not.  A pixel
    without a clean pixel of its own surface nearby, on a thin thing, stays as it is.
    """
    height, width = inverse_depth.shape
    row, column = np.divmod(places, width)
    flat, inverse = picture.reshape(-1, 3), inverse_depth.reshape(-1)
    unclean = np.zeros(len(inverse), dtype=bool)
    unclean[places] = True
    low = np.full((len(places), 3), np.inf, dtype=np.float32)
    high = np.full((len(places), 3), -np.inf, dtype=np.float32)
    own = np.zeros(len(places), dtype=bool)
    for dy in range(-_CLEAN_REACH_PX, _CLEAN_REACH_PX + 1):
        for dx in range(-_CLEAN_REACH_PX, _CLEAN_REACH_PX + 1):
            there = np.clip(row + dy, 0, height - 1) * width + np.clip(column + dx, 0, width - 1)
            clean = np.flatnonzero(~unclean[there])
            there = there[clean]
            low[clean] = np.minimum(low[clean], flat[there])
            high[clean] = np.maximum(high[clean], flat[there])
            here = inverse[places[clean]]
            own[clean] |= np.abs(inverse[there] - here) <= _RIM_DEPTH_SHARE * np.maximum(inverse[there], here)
    chosen = np.flatnonzero(own)
    flat[places[chosen]] = np.clip(flat[places[chosen]], low[chosen], high[chosen])


def soften(picture: np.ndarray, places: np.ndarray) -> None:
    """Mix the flat pixels ``places`` [P] of ``picture`` [H,W,3] f32 with their neighbours as a pixel filter does."""
    height, width = picture.shape[:2]
    flat = picture.reshape(-1, 3)
    row, column = np.divmod(places, width)
    total = np.zeros((len(places), 3), dtype=np.float32)
    for dy, weight_y in ((-1, SOFTNESS), (0, 1.0 - 2 * SOFTNESS), (1, SOFTNESS)):
        for dx, weight_x in ((-1, SOFTNESS), (0, 1.0 - 2 * SOFTNESS), (1, SOFTNESS)):
            there = np.clip(row + dy, 0, height - 1) * width + np.clip(column + dx, 0, width - 1)
            total += np.float32(weight_y * weight_x) * flat[there]
    flat[places] = total


def _continue_rims(
    values, holes, picture, known, inverse_depth, painting, falloff=_RIM_FALLOFF, depth_share=_RIM_DEPTH_SHARE
) -> None:
    """Let ``values`` [P,3] at the flat pixels ``holes`` continue the known pixels of the same surface beside them."""
    height, width = known.shape
    padded = width + 2
    number = np.full((height + 2) * padded, -1, dtype=np.int64)
    place = (holes // width + 1) * padded + holes % width + 1
    number[place] = np.arange(len(holes))
    state = np.full((height + 2, padded), False)
    state[1:-1, 1:-1] = known
    state = state.reshape(-1)
    inverse = np.zeros((height + 2, padded), dtype=np.float32)
    inverse[1:-1, 1:-1] = inverse_depth
    inverse = inverse.reshape(-1)
    rim = np.zeros_like(values)
    flat, paint = picture.reshape(-1, 3), None if painting is None else painting.reshape(-1, 3)
    waiting, share = np.arange(len(holes)), 1.0
    for _ in range(_RIM_PX):
        total, count = np.zeros((len(waiting), 3), np.float32), np.zeros(len(waiting), np.float32)
        here = place[waiting]
        for dy, dx in _AROUND:
            there = here + dy * padded + dx
            limit = depth_share * np.maximum(inverse[here], inverse[there])
            good = np.flatnonzero(state[there] & (np.abs(inverse[there] - inverse[here]) <= limit))
            source = there[good]
            done = number[source]
            pixel = (source // padded - 1) * width + source % padded - 1
            colour = flat[pixel] if paint is None else flat[pixel] - paint[pixel]
            colour = np.where((done >= 0)[:, None], rim[np.maximum(done, 0)], colour)
            weight = 1.0 if not dy or not dx else 0.5
            total[good] += weight * colour
            count[good] += weight
        reached = np.flatnonzero(count > 0.0)
        if not reached.size:
            break
        rim[waiting[reached]] = total[reached] / count[reached, None]
        state[here[reached]] = True
        chosen = waiting[reached]
        values[chosen] += share * (rim[chosen] - values[chosen])
        share *= falloff
        waiting = np.delete(waiting, reached)
