# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first frame showed: was a surface point of a later frame already visible there, or was it hidden?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import in_first_frame
from .projection import Pinhole
from .rasteriser import NO_TRIANGLE

#: A point counts as seen when it lies behind the surface drawn there by no more than this share of its depth: far above
#: the rounding of float64 interpolation, below the thickness of anything modelled to hide something.
VISIBLE_DEPTH_SHARE = 1e-4


@dataclass(frozen=True)
class FirstView:
    """The first frame's z-buffer, prepared for questions about points.

    ``farthest`` [H·W] f64: the greatest depth among the surfaces in 3×3 pixels, infinite where there is none.
    ``triangles`` [H+2,W+2] i32: the triangle that each pixel sees, with a border of `NO_TRIANGLE`.
    """

    farthest: np.ndarray
    triangles: np.ndarray
    camera: Pinhole

    @classmethod
    def of(cls, triangle_index: np.ndarray, pixels: np.ndarray, depth: np.ndarray, camera: Pinhole) -> FirstView:
        """Build it from the first frame's ``triangle_index`` [H·W], visible ``pixels`` [P] and their ``depth`` [P]."""
        height, width = camera.height, camera.width
        drawn = np.zeros(height * width)
        drawn[pixels] = depth
        framed = np.pad(drawn.reshape(height, width), 1)
        rows = np.maximum(np.maximum(framed[:-2], framed[1:-1]), framed[2:])
        farthest = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        farthest[farthest == 0.0] = np.inf
        triangles = np.pad(triangle_index.reshape(height, width), 1, constant_values=NO_TRIANGLE)
        return cls(farthest.reshape(-1), triangles, camera)

    def shows(self, xy: np.ndarray, depth: np.ndarray, triangle: np.ndarray) -> np.ndarray:
        """[P] bool: the point was inside the first frame and nothing hid it there.

        ``xy`` [P,2] f64: its pixel in the first frame, NaN behind the camera; ``depth`` [P] f64: its depth there;
        ``triangle`` [P]: the triangle it lies on.  The z-buffer knows the surface at pixel centres only, so the depth
        is compared with the farthest of 3×3 pixels, which bounds a slope in between; a point on a triangle that is
        itself seen among those pixels needs no comparison (a plane seen edge-on, up to its horizon).  The answer is
        therefore sharp to about one pixel along outlines.
        """
        width, height = self.camera.width, self.camera.height
        visible = in_first_frame(xy, width, height) & (depth >= self.camera.clip_start)
        inside = np.flatnonzero(visible)
        column = np.minimum(xy[inside, 0].astype(np.int64), width - 1)
        row = np.minimum(xy[inside, 1].astype(np.int64), height - 1)
        shown = depth[inside] <= self.farthest[row * width + column] * (1.0 + VISIBLE_DEPTH_SHARE)
        unsure = np.flatnonzero(~shown)
        row, column, own = row[unsure], column[unsure], triangle[inside[unsure]]
        for step_y in range(3):
            for step_x in range(3):
                shown[unsure] |= self.triangles[row + step_y, column + step_x] == own
        visible[inside] = shown
        return visible
