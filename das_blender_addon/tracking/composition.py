# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame composed from several key pictures, at their size: what each pixel sees is looked up where a key shows it.

Weights.  The key pictures before and after the frame count by their distance in time, so that light that differs
between them passes over from one to the other; others help where those two do not show the point, or not surely: see
`blending`.  A key that sees the surface smaller or more slanted than the frame does counts less, with the square of the
lost resolution.  Thin parts that are seen only so, and in a light that changes much, continue what is beside them.

Outlines.  A rendered pixel at an outline mixes two surfaces.  Where the frame has no outline of its own, such pixels of
a key are not believed: no thin light or dark lines where something stood.

What no key shows is filled: see `filling`.

Measured (`tests/bench/bench_key_pictures.py`, 384×256, keys at 1, 25 and 49, frames between, against Cycles): orbits of
40° 36.4 to 43.9 dB, one of 90° 34.8, the demo scene 30.3, moving shadows 31.5, things that cross 29.3.  The belief that
is needed inside a surface (0.55 or 0.8) was chosen on two orbits of 40°, one of 90°, the demo, a skinned tube and
crossing things; what half and twice of every other constant does is in the benchmarks (`bench_constants.py`).  All
without `relighting`, which changes the keys' light to that of the frame where it is known: without it a shadow that
moves is seen at both keys' places.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .blending import NEEDED_INSIDE, blended
from .correspondences import KEYS_AT_A_TIME, FrameCorrespondences, outlines
from .filling import clear_outlines, fill_holes, mend_slivers, soften
from .pyramid import Pyramid
from .relighting import FrameLight

#: How much a key's pixel at an outline is believed.
OUTLINE_BELIEF = 0.2
#: Key pictures before a frame, and after it, that it is composed from: others are too far away in time to know better.
#: Of a model's own frames it is one.
NEIGHBOURS = 2
_PIXELS_PER_TILE = 1 << 16


@dataclass(frozen=True)
class Composed:
    """``picture`` [H,W,3] of the keys' type; ``known`` [H,W] bool: some key picture shows what the pixel sees."""

    picture: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Gathered:
    """What the key pictures show of one frame, its holes not yet filled.

    ``picture`` [H,W,3] f32; ``known`` [H,W] bool; ``inverse_depth`` [H,W] f32: 1/Blender units, 0 for the sky;
    ``outline``, ``mixed`` [P]: flat pixels at an outline, and those among them that may show two surfaces; ``own``
    [H,W,3 or 4]: the picture of the frame itself, where there is one, of the pictures' ``dtype``.  ``hole`` [H,W] bool:
    nothing is there, whatever is behind it, and black is shown; None where that is nowhere.
    """

    picture: np.ndarray
    known: np.ndarray
    inverse_depth: np.ndarray
    outline: np.ndarray
    mixed: np.ndarray
    own: np.ndarray | None
    dtype: np.dtype
    hole: np.ndarray | None = None

    @property
    def settled(self) -> np.ndarray:
        """[H,W] bool: what is shown is known, a surface's colour or a hole's black."""
        return self.known if self.hole is None else self.known | self.hole

    def filled(self, fill: np.ndarray | None = None, share: float = 1.0) -> Composed:
        """The frame.  Where no key picture knows better it shows the ``share`` (0 to 1) of ``fill`` [H,W,3], its tone
        matched to the surroundings, and for the rest continues these; all of it where none knows anything.
        """
        picture = self.picture.copy()
        share = share if self.known.any() else 1.0  # else there is nothing to continue
        painting = None
        if fill is not None and share > 0.0:
            # What continues the surroundings is linear in the colours: both parts are filled at once.
            painting = fill.astype(np.float32)
            painting *= np.float32(share)
        fill_holes(picture, self.known, self.inverse_depth, painting)
        if self.own is None:
            clear_outlines(picture, self.mixed, self.inverse_depth)
            if self.hole is not None:
                picture[self.hole] = 0.0
            soften(picture, self.outline)
        elif self.hole is not None:
            picture[self.hole] = 0.0
        result = _stored(picture, self.dtype)
        if self.own is not None:
            painted = _painted(self.own)
            result[painted] = self.own[..., :3][painted]
        return Composed(result, self.settled)


class PreparedPictures:
    """The key pictures of one shot, at one size, prepared for look-ups: each once, however many composers use it."""

    def __init__(self) -> None:
        self._pyramids: dict[int, Pyramid] = {}
        self._lock = threading.Lock()

    def of(self, keys: Sequence[int], pictures: Sequence[np.ndarray], edges: np.ndarray) -> list[Pyramid]:
        """Those of the frames ``keys``, with ``pictures`` and ``edges`` as of `FrameCorrespondences`; of other frames
        nothing is kept.
        """
        with self._lock:
            self._pyramids = {key: self._pyramids[key] for key in keys if key in self._pyramids}
            asked = zip(keys, pictures, edges, strict=True)
            missing = [one for one in asked if one[0] not in self._pyramids]
            with ThreadPoolExecutor(KEYS_AT_A_TIME, thread_name_prefix="das pyramids") as pool:
                made = pool.map(lambda one: (one[0], _prepared(*one[1:])), missing)
                self._pyramids |= made
            return [self._pyramids[key] for key in keys]


class Composer:
    """Composes frames from K ``pictures`` [H,W,3 or 4] of one size, u8 or f32 (linear light), alpha 0 = not painted.

    Several threads may compose at a time.  ``prepared``: shared with other composers of the same shot and size.
    """

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        *,
        prepared: PreparedPictures | None = None,
        pixels_per_tile: int = _PIXELS_PER_TILE,
    ):
        self._pictures = [np.asarray(picture) for picture in pictures]
        self._tile = max(1, int(pixels_per_tile))
        self._prepared = prepared or PreparedPictures()
        self._pyramids: list[Pyramid] | None = None
        self._lock = threading.Lock()
        _check_pictures(self._pictures)
        painted = [None if picture.shape[2] == 3 else _painted(picture) for picture in self._pictures]
        self._partly = [None if mask is None or mask.all() else mask for mask in painted]

    def compose(
        self,
        frame: FrameCorrespondences,
        fill: np.ndarray | None = None,
        share: float = 1.0,
        light: FrameLight | None = None,
    ) -> Composed:
        """The picture of ``frame``; the ``share`` of ``fill`` [H,W,3], of the pictures' type, is shown where no key
        knows better, see `Gathered.filled`.

        ``light``: how the light of the key pictures changes until then; None for nothing.

        All frames must come from one `correspondences`.  A frame at a key returns that picture as it is, where it is
        painted.  Raises `SettingsError` when the sizes do not fit together.
        """
        self._check_frame(frame, fill)
        return self.gather(frame, light).filled(fill, share)

    def prepare(self, frame: FrameCorrespondences) -> None:
        """Prepare the key pictures of ``frame``, of all frames alike, for look-ups, as the first `gather` does else."""
        with self._lock:
            if self._pyramids is None:
                self._pyramids = self._prepared.of(frame.key_indices, self._pictures, frame.key_edges)

    def gather(self, frame: FrameCorrespondences, light: FrameLight | None = None) -> Gathered:
        """What the key pictures show of ``frame``; as `compose`."""
        self._check_frame(frame, None)
        own = frame.key_indices.index(frame.index) if frame.index in frame.key_indices else None
        height, width = frame.coverage.shape
        inverse_depth = (1.0 / frame.depth).astype(np.float32)
        outline = mixed = np.zeros(0, np.int64)
        painted = None if own is None else _painted(self._pictures[own])
        if painted is None or not painted.all():
            self.prepare(frame)
            at_outline = outlines(inverse_depth).reshape(-1)
            found = blended(frame, self._pyramids, at_outline, light, self._tile, self._partly)
            picture, known = found.picture, found.known
            mend_slivers(picture, found.doubtful, known, at_outline.reshape(known.shape), inverse_depth)
            outline = np.flatnonzero(at_outline)
            mixed = outline[known.reshape(-1)[outline] & (found.trust[outline] < NEEDED_INSIDE)]
        else:
            picture, known = np.zeros((height, width, 3), dtype=np.float32), np.zeros((height, width), dtype=bool)
        if painted is not None:
            picture[painted], known = self._pictures[own][..., :3][painted], known | painted
        return Gathered(
            picture, known, inverse_depth, outline, mixed, None if own is None else self._pictures[own],
            self._pictures[0].dtype, frame.hole,
        )

    def _check_frame(self, frame: FrameCorrespondences, fill) -> None:
        shape = frame.coverage.shape
        if len(self._pictures) != len(frame.key_indices):
            raise SettingsError(
                f"There are {len(self._pictures)} key pictures and correspondences with {len(frame.key_indices)}: "
                "give one picture for each key frame."
            )
        for name, picture in (("key pictures", self._pictures[0]), ("fill", fill)):
            if picture is not None and picture.shape[:2] != shape:
                raise SettingsError(
                    f"The {name} have {picture.shape[1]}×{picture.shape[0]} pixels and the correspondences "
                    f"{shape[1]}×{shape[0]}: they must be equal."
                )
        if fill is not None and (fill.ndim != 3 or fill.shape[2] != 3 or fill.dtype != self._pictures[0].dtype):
            raise SettingsError(
                f"The fill must be [H,W,3] {self._pictures[0].dtype} as the key pictures and is {list(fill.shape)} "
                f"{fill.dtype}."
            )


def keys_around(keys: Sequence[int], index: int, neighbours: int = NEIGHBOURS) -> tuple[int, ...]:
    """Places in ``keys`` (increasing) of those that the frame ``index`` is composed from."""
    before = bisect_right(keys, index) - (len(keys) > 1 and index == keys[-1])  # with the frames before it
    return tuple(range(max(0, before - neighbours), min(len(keys), before + neighbours)))


def _prepared(picture: np.ndarray, edges: np.ndarray) -> Pyramid:
    painted = _painted(picture)
    colours = picture[..., :3]
    if not painted.all():
        filled = colours.astype(np.float32)
        fill_holes(filled, painted, np.ones(painted.shape, np.float32))
        colours = np.where(painted[..., None], colours, _stored(filled, picture.dtype))
    belief = np.where(edges, np.float32(OUTLINE_BELIEF), np.float32(1.0)) * painted
    return Pyramid.of(colours, belief)


def _painted(picture: np.ndarray) -> np.ndarray:
    """[H,W] bool: at least half of the pixel is painted."""
    if picture.shape[2] == 3:
        return np.ones(picture.shape[:2], dtype=bool)
    return picture[..., 3] >= (128 if picture.dtype == np.uint8 else 0.5)


def _stored(picture: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(np.clip(picture, 0.0, 255.0)).astype(np.uint8) if dtype == np.uint8 else picture.astype(dtype)


def _check_pictures(pictures: list[np.ndarray]) -> None:
    if not pictures:
        raise SettingsError("There is no key picture: give at least one.")
    first = pictures[0]
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] not in (3, 4) or picture.dtype not in (np.uint8, np.float32):
            raise SettingsError(
                f"Key pictures must be [H,W,3] or [H,W,4], u8 or f32, and one is {list(picture.shape)} {picture.dtype}."
            )
        if picture.shape[:2] != first.shape[:2] or picture.dtype != first.dtype:
            raise SettingsError(
                f"Key pictures must have one size and type, and one has {picture.shape[1]}×{picture.shape[0]} pixels, "
                f"{picture.dtype}, another {first.shape[1]}×{first.shape[0]}, {first.dtype}."
            )
