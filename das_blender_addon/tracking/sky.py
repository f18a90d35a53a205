# SPDX-License-Identifier: GPL-3.0-or-later
"""The sky: what a pixel sees where there is no surface lies infinitely far away, so that only the camera's turn moves
it, exactly, and never the camera's place.
"""

from __future__ import annotations

import numpy as np

from .colours import in_first_frame
from .projection import Pinhole
from .visibility import FirstView

#: Angle in radians up to which two orthographic cameras look in one direction: a hundredth of a degree.  Blender's
#: matrices are of single precision: the cosine of such an angle is less than 1 by no more than they are wrong.
SAME_DIRECTION = 1.75e-4


def sky_places(pixels: np.ndarray, camera: Pinhole, other: Pinhole) -> np.ndarray:
    """[P,2] f64: where ``other`` sees the sky that ``camera`` sees at its flat ``pixels`` [P]; NaN for nowhere.

    The rays of an orthographic camera are parallel, so that all its pixels see one direction of the sky, as it renders
    it.  Where another orthographic camera looks in that direction, too, each pixel has its own place, wherever the two
    stand; where it looks elsewhere, and from a pinhole to it, there is none.  Seen by a pinhole all of them have one.
    """
    row, column = np.divmod(pixels, camera.width)
    turn = other.optical_from_world[:3, :3] @ camera.optical_from_world[:3, :3].T
    if other.is_orthographic:
        if camera.is_orthographic and np.arctan2(np.hypot(*turn[2, :2]), turn[2, 2]) < SAME_DIRECTION:
            return np.stack([column + 0.5, row + 0.5], axis=1)
        return np.full((len(pixels), 2), np.nan)
    rays = np.stack(
        [
            (column + 0.5 - camera.principal_px[0]) / camera.focal_px[0],
            (row + 0.5 - camera.principal_px[1]) / camera.focal_px[1],
            np.ones(len(pixels)),
        ]
    )
    if camera.is_orthographic:
        rays[:2] = 0.0
    return other.project((turn @ rays).T)


def shows_sky(view: FirstView, xy: np.ndarray) -> np.ndarray:
    """[P] bool: the key picture sees no surface at ``xy`` [P,2]."""
    width, height = view.camera.width, view.camera.height
    shown = in_first_frame(xy, width, height)
    inside = np.flatnonzero(shown)
    column = np.minimum(xy[inside, 0].astype(np.int64), width - 1)
    row = np.minimum(xy[inside, 1].astype(np.int64), height - 1)
    shown[inside] = view.inverse_depth[row * width + column] == 0.0
    return shown
