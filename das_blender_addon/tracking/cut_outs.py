# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that a picture's alpha cuts out: where a leaf's card is transparent, what is behind it is seen.

Alpha is sampled at the surface point of each pixel's centre, as an image texture is, and either there or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AlphaPicture:
    """``levels`` [h,w] u8 or u16, rows bottom-up as v is; there is a surface where they are ``threshold`` or more, and
    with ``is_inverted`` where they are less.  ``is_smooth``: linear between the middles of pixels, else the nearest
    one.  ``extension``: REPEAT, EXTEND, CLIP (level 0 outside) or MIRROR.
    """

    levels: np.ndarray
    threshold: float = 127.5
    is_inverted: bool = False
    is_smooth: bool = True
    extension: str = "REPEAT"

    def is_there(self, uv: np.ndarray) -> np.ndarray:
        """[P] bool: there is a surface at ``uv`` [P,2]."""
        height, width = self.levels.shape
        u, v = (np.nan_to_num(axis) for axis in uv.astype(np.float64).T)
        if not self.is_smooth:
            level = self._level(np.floor(u * width), np.floor(v * height))
        else:
            x, y = u * width - 0.5, v * height - 0.5
            column, row = np.floor(x), np.floor(y)
            across, up = x - column, y - row
            low = self._level(column, row) * (1.0 - across) + self._level(column + 1, row) * across
            high = self._level(column, row + 1) * (1.0 - across) + self._level(column + 1, row + 1) * across
            level = low * (1.0 - up) + high * up
        return (level >= self.threshold) != self.is_inverted

    def _level(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[P] f64: the levels of pixels, which may lie outside."""
        places, inside = [], np.ones(len(column), bool)
        for place, size in zip((row, column), self.levels.shape, strict=True):
            place = np.clip(place, -(2.0**40), 2.0**40).astype(np.int64)
            if self.extension == "REPEAT":
                place = place % size
            elif self.extension == "MIRROR":
                place = place % (2 * size)
                place = np.minimum(place, 2 * size - 1 - place)
            else:
                inside &= (place >= 0) & (place < size)
                place = np.clip(place, 0, size - 1)
            places.append(place)
        level = self.levels[places[0], places[1]].astype(np.float64)
        return np.where(inside, level, 0.0) if self.extension == "CLIP" else level


@dataclass(frozen=True)
class CutOuts:
    """Which triangles of a shot are cut out.

    ``triangles`` [K] i32, increasing: indices into `GeometrySequence.triangles`.  ``uv`` [K,3,2] f32 of their corners.
    ``picture`` [K] i32: which of the ``pictures`` cuts each.
    """

    triangles: np.ndarray
    uv: np.ndarray
    picture: np.ndarray
    pictures: tuple[AlphaPicture, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays for a file."""
        said = [(one.threshold, one.is_inverted, one.is_smooth) for one in self.pictures]
        return {
            "cut_triangles": self.triangles,
            "cut_uv": self.uv,
            "cut_picture": self.picture,
            "cut_said": np.array(said, np.float64).reshape(-1, 3),
            "cut_extensions": np.array([one.extension for one in self.pictures], np.str_),
            **{f"cut_levels_{number}": one.levels for number, one in enumerate(self.pictures)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> CutOuts | None:
        """What `arrays` gave; None where nothing is cut out.  Raises `KeyError`."""
        if "cut_triangles" not in arrays:
            return None
        pictures = tuple(
            AlphaPicture(arrays[f"cut_levels_{number}"], float(threshold), bool(inverted), bool(smooth), str(extension))
            for number, ((threshold, inverted, smooth), extension) in enumerate(
                zip(arrays["cut_said"], arrays["cut_extensions"], strict=True)
            )
        )
        return cls(arrays["cut_triangles"], arrays["cut_uv"], arrays["cut_picture"], pictures)
