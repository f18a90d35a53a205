# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth of a clip's first picture, each pixel's own, from cameras that are known: at which distance the other frames
show the same there.

Tried are distances between those of the points that are known; what agrees at none of them (no texture, hidden in most
frames, or it moves by itself) is continued from around it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from .filling import fill_harmonic, nearest_label
from .layers import widened
from .lifting import OPTICAL
from .movers import movers
from .plate import focal_px
from .standing import moving_tracks
from .triangulation import Points

MOST_PIXELS = 150_000
"""Of the pictures that are compared; larger ones are halved until they have fewer."""
FRAMES = 6
HALF = 2
"""Pixels from the middle of a window that is compared to its side."""
FINER = 2
"""Steps of distance to either side among which a pixel's own window chooses."""
STEP_PX, FEWEST, MOST = 0.75, 24, 96
"""From one distance to the next the picture moves by so much at most, as far as `MOST` distances go."""
SEEN = 0.4
"""A frame shows this share of the points that are known, or is not looked at."""
BEST = 0.5
"""Of the frames, the share that agrees best: in the others something may be before it."""
AGREES, APART = 0.3, 0.06
"""1 - correlation of what agrees; its 1/depth differs from the middle one of those around by less than this share."""
AROUND = 2
BEYOND = 1.25
"""Times farther, and nearer, than the points that are known."""
TOLD = 0.5
"""A thing of which a smaller share was told is taken for a card."""
FOOT, NEAREST = 6, 20.0
"""It stands in the lowest sixth of its height, where the nearest fifth of what is beside it begins."""
ROUGH = 20
"""What is beside a thing that nobody masked begins within this part of the picture's longer side."""
DENSE = 40
"""Tracks no farther apart than this part of it tell the outline of a thing well enough to cut it out."""
FLAT = 1.0
"""Levels squared: contrast of a window that tells nothing."""


def swept_depth(
    pictures: np.ndarray, cameras: np.ndarray, lens_mm: float, points: Points, tracks: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Points]:
    """(depth f32 [H,W] of the first of ``pictures`` u8 [T,H,W,3], in the unit of ``cameras`` [T,4,4] (camera → world);
    bool [H,W]: where it was told, and not continued from around; the ``points``, of which those move whose pictures
    confirm it).

    ``points``: the triangulated ones of ``tracks`` [T,N,2+] (pixels) with ``visible`` [T,N].
    """
    height, width = pictures.shape[1:3]
    halvings = 0
    while (height >> halvings) * (width >> halvings) > MOST_PIXELS:
        halvings += 1
    far = points.places[points.good, 2]
    near, far = np.percentile(far, 1.0) / BEYOND, np.percentile(far, 99.0) * BEYOND
    poses = OPTICAL @ np.linalg.inv(cameras[0]) @ cameras @ OPTICAL
    shares = visible[:, points.good].mean(axis=1)
    numbers = 1 + np.flatnonzero(shares[1:] >= min(SEEN, shares[1:].max()))
    numbers = numbers[np.unique(np.linspace(len(numbers) // 8, len(numbers) - 1, FRAMES).astype(int))]
    grey = [_small(pictures[number], halvings) for number in (0, *numbers)]
    focal = focal_px(lens_mm, (width, height)) / (1 << halvings)
    cost, inverse = _swept(grey, np.linalg.inv(poses[numbers]), focal, 1.0 / far, 1.0 / near)
    found, agrees = _best(cost, inverse)
    rows = np.minimum(np.arange(height) >> halvings, found.shape[0] - 1)
    columns = np.minimum(np.arange(width) >> halvings, found.shape[1] - 1)
    place = np.ix_(rows, columns)

    def whole(told: np.ndarray, known: Points) -> tuple[np.ndarray, np.ndarray]:
        told, values = _usual(found, told), found.copy()
        _add_points(values, told, known, tracks[0], 1 << halvings)
        values = _without_specks(fill_harmonic(values[..., None], told, ~told)[..., 0])
        return (1.0 / np.clip(values[place], 1.0 / far, None)).astype(np.float32), told[place]

    depth, told = whole(agrees, points)
    moves = moving_tracks(points, tracks, visible, pictures, cameras, lens_mm, depth)
    points = replace(points, moves=moves)
    if moves.any():
        agrees &= ~moving_pixels(points, tracks[0], agrees.shape, 1 << halvings)
        depth, told = whole(agrees, points)
        things = movers(moving_pixels(points, tracks[0], depth.shape), tracks[0, points.moves], {})
        carded = cards_of(depth, told, things, margin=max(depth.shape) // ROUGH)
        if depth.size <= (max(depth.shape) / DENSE) ** 2 * visible[0].sum():
            depth = carded
        else:
            depth, _ = whole(agrees, _upright(points, tracks[0], things, carded))
    return depth, told, points


def cards_of(depth: np.ndarray, told: np.ndarray, masks: Collection[np.ndarray], margin: int = 2) -> np.ndarray:
    """``depth`` [H,W] with each thing of ``masks`` (bool [H,W] each) that it was not ``told`` [H,W] of as an upright
    card: as far away as the nearest of what is beside its lower edge, ``margin`` pixels around, where it stands.
    """
    depth = depth.copy()
    things = np.any(list(masks), axis=0) if masks else np.zeros(depth.shape, bool)
    for mask in masks:
        if told[mask].mean() >= TOLD:
            continue
        rows = np.flatnonzero(mask.any(axis=1))
        beside = mask
        for _ in range(margin):
            beside = widened(beside)
        beside &= ~things
        beside[: rows[-1] - (rows[-1] - rows[0]) // FOOT] = False
        if beside.any():
            depth[mask] = np.percentile(depth[beside], NEAREST)
    return depth


def _upright(points: Points, at: np.ndarray, things: Collection[np.ndarray], carded: np.ndarray) -> Points:
    """``points`` with those of ``things`` (bool [H,W] each) that move as far away as ``carded`` [H,W] says: what lies
    between sparse tracks is continued, so that the rough outline that they tell is not cut out.
    """
    x, y = np.floor(np.nan_to_num(at[:, :2], nan=-1.0)).astype(int).T
    stands = points.moves & (x >= 0) & (y >= 0) & (x < carded.shape[1]) & (y < carded.shape[0])
    stands[stands] = np.any(list(things), axis=0)[y[stands], x[stands]] if things else False
    places = points.places.copy()
    places[stands, 2] = carded[y[stands], x[stands]]
    return replace(points, places=places, good=points.good | stands)


def _without_specks(values: np.ndarray) -> np.ndarray:
    """``values`` [H,W] with each one the middle one of the nine around it."""
    height, width = values.shape
    framed = np.pad(values, 1, mode="edge")
    around = [framed[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.median(np.stack(around), axis=0)


def _small(picture: np.ndarray, halvings: int) -> np.ndarray:
    grey = picture.astype(np.float32).mean(axis=2)
    for _ in range(halvings):
        grey = grey[: grey.shape[0] // 2 * 2, : grey.shape[1] // 2 * 2]
        grey = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4.0
    return grey


def _swept(grey: list[np.ndarray], views: np.ndarray, focal: float, low: float, high: float):
    """(1 - correlation [D,H,W], 1/depth [D]) of what the frames show at each distance with what the first one does."""
    first, others = grey[0], grey[1:]
    height, width = first.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    rays = np.stack([(x - width / 2.0) / focal, (y - height / 2.0) / focal, np.ones_like(x)], axis=-1)
    turned = [rays @ view[:3, :3].T.astype(np.float32) for view in views]
    farthest = max(float(np.linalg.norm(view[:3, 3])) for view in views)
    count = int(np.clip(np.ceil(focal * farthest * (high - low) / STEP_PX), FEWEST, MOST))
    inverse = np.linspace(low, high, count)
    mean, spread = _moments(first)
    cost = np.full((count, height, width), np.inf, np.float32)
    for number, value in enumerate(inverse):
        apart = []
        for seen, view, ray in zip(others, views, turned, strict=True):
            shown, inside = _sampled(seen, ray + np.float32(value) * view[:3, 3].astype(np.float32), focal)
            own, wide = _moments(shown)
            alike = (_mean(shown * first) - own * mean) / np.sqrt(np.maximum(wide * spread, 0.0) + FLAT)
            apart.append(np.where(inside, 1.0 - alike, np.inf))
        apart = np.sort(np.stack(apart), axis=0)
        there = np.isfinite(apart).sum(axis=0)
        kept = np.maximum((there * BEST + 0.5).astype(int), 1)
        use = np.arange(len(apart))[:, None, None] < np.minimum(kept, np.maximum(there, 1))
        total = np.where(use & np.isfinite(apart), apart, 0.0).sum(axis=0)
        cost[number] = np.where(there > 0, total / np.maximum(kept, 1), np.inf)
    return cost, inverse


def _sampled(picture: np.ndarray, places: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """(``picture`` [h,w] at the ``places`` [H,W,3] of its optical space, which of them it shows)."""
    height, width = picture.shape
    depth = np.maximum(places[..., 2], np.float32(1e-6))
    x, y = (focal * places[..., axis] / depth + side / 2.0 - 0.5 for axis, side in ((0, width), (1, height)))
    inside = (places[..., 2] > 1e-6) & (x >= 0.0) & (x <= width - 1) & (y >= 0.0) & (y <= height - 1)
    x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    left, top = (np.minimum(at.astype(np.int32), side - 2) for at, side in ((x, width), (y, height)))
    across, down = x - left, y - top
    at, flat = top * width + left, picture.ravel()
    above = flat[at] * (1.0 - across) + flat[at + 1] * across
    below = flat[at + width] * (1.0 - across) + flat[at + width + 1] * across
    return above * (1.0 - down) + below * down, inside


def _moments(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) of the window round each pixel."""
    mean = _mean(picture)
    return mean, _mean(picture * picture) - mean * mean


def _mean(values: np.ndarray) -> np.ndarray:
    """[H,W]: of the window of `HALF` round each pixel, as much of it as there is."""
    for axis in (0, 1):
        count = values.shape[axis]
        total = np.insert(np.cumsum(values, axis=axis, dtype=np.float64), 0, 0.0, axis=axis)
        high, low = np.minimum(np.arange(count) + HALF + 1, count), np.maximum(np.arange(count) - HALF, 0)
        step = total.take(high, axis=axis) - total.take(low, axis=axis)
        values = step / (high - low).reshape((-1, 1) if axis == 0 else (1, -1))
    return values


def _best(cost: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1/depth [H,W] between the two distances beside the best one, where it agrees).

    A pixel at the edge of a surface is best told by a window beside it that lies on that surface alone; such windows
    choose the distance, and the pixel's own one the finer place near it.
    """
    least = _least_beside(cost)
    at = least.argmin(axis=0)
    agrees = np.take_along_axis(least, at[None], axis=0)[0] < AGREES
    steps = range(-FINER, FINER + 1)
    near = np.stack([_taken(cost, np.clip(at + step, 0, len(cost) - 1)) for step in steps])
    at = np.clip(at + near.argmin(axis=0) - FINER, 0, len(cost) - 1)
    inner = np.clip(at, 1, len(inverse) - 2)
    before, here, after = (_taken(cost, inner + step) for step in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = before - 2.0 * here + after
        shift = np.where((bend > 1e-9) & (here <= before) & (here <= after), 0.5 * (before - after) / bend, 0.0)
    shift = np.clip(np.nan_to_num(shift), -0.5, 0.5)
    return inverse[inner] + shift * (inverse[1] - inverse[0]), agrees & (at == inner)


def _taken(cost: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[H,W]: of ``cost`` [D,H,W] what is ``at`` [H,W]."""
    return np.take_along_axis(cost, at[None], axis=0)[0]


def _least_beside(cost: np.ndarray) -> np.ndarray:
    """[D,H,W]: the least of each distance among the windows that a pixel is in."""
    for axis in (1, 2):
        margin = [(0, 0)] * 3
        margin[axis] = (HALF, HALF)
        framed, count = np.pad(cost, margin, constant_values=np.inf), cost.shape[axis]
        for step in range(2 * HALF + 1):
            part = [slice(None)] * 3
            part[axis] = slice(step, step + count)
            cost = np.minimum(cost, framed[tuple(part)])
    return cost


def moving_pixels(points: Points, at: np.ndarray, shape: tuple[int, int], side: int = 1) -> np.ndarray:
    """Bool [H,W]: pixels, ``side`` of the picture's wide, that a track of what moves by itself is nearest to, of those
    that tell either; ``at`` [N,2+]: where the tracks of ``points`` are in the first picture.
    """
    seen = points.good | points.moves
    x, y = np.floor(at[seen, :2].T / side).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    moves, known = np.zeros(shape, bool), np.zeros(shape, bool)
    moves[y[inside], x[inside]], known[y[inside], x[inside]] = points.moves[seen][inside], True
    return nearest_label(moves, ~known) if moves.any() else moves


def _usual(found: np.ndarray, agrees: np.ndarray) -> np.ndarray:
    """``agrees`` without what is alone among those around it."""
    framed = np.pad(np.where(agrees, found, np.nan), AROUND, constant_values=np.nan)
    height, width = found.shape
    steps = range(2 * AROUND + 1)
    around = np.stack([framed[dy : dy + height, dx : dx + width] for dy in steps for dx in steps])
    order = np.sort(around, axis=0)  # what is not known comes last
    count = np.isfinite(around).sum(axis=0)
    middle = np.take_along_axis(order, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return agrees & (count > len(around) // 3) & (np.abs(found - middle) < APART * found)


def _add_points(found: np.ndarray, agrees: np.ndarray, points: Points, at: np.ndarray, side: int) -> None:
    """The points that are known, where nothing agrees."""
    x, y = np.floor(at[points.good, :2].T / side).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < found.shape[1]) & (y < found.shape[0])
    y, x, inverse = y[inside], x[inside], 1.0 / points.places[points.good, 2][inside]
    free = ~agrees[y, x]
    found[y[free], x[free]], agrees[y[free], x[free]] = inverse[free], True
