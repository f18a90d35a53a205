# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip laid over another picture: moved, scaled and turned in the picture plane, so that its subject lies on the
other one's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .plate import Plate


@dataclass(frozen=True)
class Alignment:
    """``right`` and ``down``: pixels of the clip; ``scale`` and ``degrees`` (clockwise) about the picture's middle."""

    right: float = 0.0
    down: float = 0.0
    scale: float = 1.0
    degrees: float = 0.0

    @property
    def is_none(self) -> bool:
        return self == Alignment()

    def _turned(self) -> np.ndarray:
        angle = math.radians(self.degrees)
        cosine, sine = math.cos(angle), math.sin(angle)
        return self.scale * np.array([[cosine, -sine], [sine, cosine]])

    def matrix(self, plate: Plate) -> np.ndarray:
        """[3,3] f64, optical space: where what is seen must be to be seen aligned; depths stay as they are."""
        matrix = np.eye(3)
        matrix[:2, :2] = self._turned()
        matrix[:2, 2] = np.array([self.right, self.down]) / plate.focal_px
        return matrix

    def pixels(self, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """``places`` [N,2] in the clip's picture → in the other one, both of ``size`` (width, height) pixels."""
        middle = np.array(size) / 2.0
        return (places - middle) @ self._turned().T + middle + np.array([self.right, self.down])

    @property
    def words(self) -> str:
        """As it was asked for."""
        return f"{self.right:g} px right, {self.down:g} px down, scaled by {self.scale:g}, turned {self.degrees:g}°"


def read_alignment(words: str) -> Alignment:
    """``RIGHT,DOWN[,SCALE[,DEGREES]]``; "" for none.  Raises `SettingsError`."""
    if not words:
        return Alignment()
    try:
        values = [float(number) for number in words.split(",")]
        if not 2 <= len(values) <= 4 or not all(map(math.isfinite, values)):
            raise ValueError
        aligned = Alignment(*values)
    except ValueError as error:
        raise SettingsError(
            f"The alignment {words!r} cannot be read; write --align=RIGHT,DOWN,SCALE,DEGREES, as 12,-4,1.1,5.",
            field="align",
        ) from error
    if not 0.01 <= aligned.scale <= 100.0:
        raise SettingsError(f"The alignment scales by {aligned.scale:g}; give 0.01 to 100.", field="align")
    return aligned
