# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first frame showed: was a surface point of a later frame already visible there, or was it hidden?

The first frame's z-buffer knows surfaces at pixel centres only.  A point is compared with the surface of the pixel that
contains it, continued along its triangle to the point itself, so that planes compare exactly however steep they are;
curved surfaces made of small triangles are bounded by the neighbouring pixels of the same surface.  The answer is sharp
to about half a pixel along outlines, without growing or shrinking what hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import in_first_frame
from .projection import BEYOND, Pinhole

#: A point counts as seen when it lies behind the surface drawn there by no more than this share of its depth: far above
#: the rounding of float64 interpolation, below the thickness of anything modelled to hide something.
VISIBLE_DEPTH_SHARE = 1e-4
#: Neighbouring pixels whose depths differ by less than this share are taken for one surface.
SAME_SURFACE_SHARE = 0.02
NEARLY_NOTHING = 1e-9


@dataclass(frozen=True)
class FirstView:
    """The first frame's surfaces, one per pixel [H·W], prepared for questions about points.

    ``inverse_depth`` f64 at the pixel's centre, 0 where there is none; ``gradient_x``, ``gradient_y``: its change per
    pixel along the triangle (the depth's change, where the camera is orthographic: what is linear in the picture);
    ``triangle_end``: 1/depth at the triangle's farthest corner; ``surface_end``: the smallest 1/depth of the same
    surface in 3×3 pixels.
    """

    inverse_depth: np.ndarray
    gradient_x: np.ndarray
    gradient_y: np.ndarray
    triangle_end: np.ndarray
    surface_end: np.ndarray
    camera: Pinhole

    @classmethod
    def of(
        cls, pixels: np.ndarray, depth: np.ndarray, triangles: np.ndarray, points: np.ndarray, camera: Pinhole
    ) -> FirstView:
        """Build it from the first frame's visible ``pixels`` [P], their ``depth`` [P] and ``triangles`` [P,3].

        ``points`` [N,3] f64: the vertices in the first camera's optical space.
        """
        a, b, c = (points.take(corner, axis=0) for corner in triangles.T)
        normal = np.cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            # A plane n·p = d is seen along the ray r at depth d / (n·r): 1/depth is linear in the picture.
            per_pixel = -normal[:, 2] if camera.is_orthographic else np.einsum("pk,pk->p", normal, a)
            gradient = normal[:, :2] / (per_pixel[:, None] * np.array(camera.focal_px))
        gradient[~np.isfinite(gradient).all(axis=1)] = 0.0
        ends = np.stack([a[:, 2], b[:, 2], c[:, 2]])
        farthest = np.where((ends > 0.0).all(axis=0), ends.max(axis=0), np.inf)
        layers = np.zeros((4, camera.height * camera.width))
        layers[:, pixels] = 1.0 / depth, gradient[:, 0], gradient[:, 1], 1.0 / farthest
        inverse_depth, gradient_x, gradient_y, triangle_end = layers
        surface_end = _surface_end(inverse_depth.reshape(camera.height, camera.width)).reshape(-1)
        return cls(inverse_depth, gradient_x, gradient_y, triangle_end, surface_end, camera)

    def shows(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """[P] bool: the point was inside the first frame and nothing hid it there.

        ``xy`` [P,2] f64: its pixel in the first frame, NaN behind the camera; ``depth`` [P] f64: its depth there.
        """
        width, height = self.camera.width, self.camera.height
        visible = in_first_frame(xy, width, height)
        visible &= (depth >= self.camera.clip_start) & ((depth <= self.camera.clip_end) | (depth >= BEYOND))
        inside = np.flatnonzero(visible)
        x, y = xy[inside, 0], xy[inside, 1]
        column = np.minimum(x.astype(np.int64), width - 1)
        row = np.minimum(y.astype(np.int64), height - 1)
        pixel = row * width + column
        surface = self.inverse_depth[pixel]
        change = self.gradient_x[pixel] * (x - column - 0.5)
        change += self.gradient_y[pixel] * (y - row - 0.5)
        if self.camera.is_orthographic:
            change = np.maximum(1.0 + change * surface, NEARLY_NOTHING)
            surface /= change  # 1 / (depth + change of depth)
        else:
            surface += change
        surface = np.minimum(np.maximum(surface, self.triangle_end[pixel]), self.surface_end[pixel])
        visible[inside] = surface * depth[inside] <= 1.0 + VISIBLE_DEPTH_SHARE
        return visible


def _surface_end(inverse_depth: np.ndarray) -> np.ndarray:
    """The smallest 1/depth in 3×3 pixels of the middle one's surface, [H,W]; 0 where there is none."""
    framed = np.pad(inverse_depth, 1)
    smallest = inverse_depth.copy()
    least = inverse_depth / (1.0 + SAME_SURFACE_SHARE)
    height, width = inverse_depth.shape
    for step_y in range(3):
        for step_x in range(3):
            neighbour = framed[step_y : step_y + height, step_x : step_x + width]
            smallest = np.where(neighbour >= least, np.minimum(smallest, neighbour), smallest)
    return smallest
