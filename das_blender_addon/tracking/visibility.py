# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first frame showed: was a surface point of a later frame already visible there, or was it hidden?

The first frame's z-buffer knows surfaces at pixel centres only.  A point is compared with the surface of the pixel that
contains it, continued along its triangle to the point itself, so that planes compare exactly however steep they are;
curved surfaces made of small triangles are bounded by the neighbouring pixels of the same surface.  Along outlines it
is compared with the triangles themselves (`outlines`); without them, and at those of what has holes, the answer is
sharp to about half a pixel, without growing or shrinking what hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colours import in_first_frame
from .cut_outs import CutOuts
from .outlines import NOTHING, Outlines
from .projection import BEYOND, Pinhole

#: A point counts as seen when it lies behind the surface drawn there by no more than this share of its depth: far above
#: the rounding of float64 interpolation, below the thickness of anything modelled to hide something.
VISIBLE_DEPTH_SHARE = 1e-4
#: Neighbouring pixels whose depths differ by less than this share are taken for one surface.
SAME_SURFACE_SHARE = 0.02
NEARLY_NOTHING = 1e-9


@dataclass(frozen=True)
class FirstView:
    """The first frame's surfaces, one per pixel, prepared for questions about points.

    ``planes`` [H·W,4] f32: 1/depth at the pixel's centre, 0 where there is none; its change per pixel along the
    triangle, in x and y (the depth's change, where the camera is orthographic: what is linear in the picture); 1/depth
    at the triangle's farthest corner.  ``surface_end`` [H·W] f32: the smallest 1/depth of the same surface in 3×3
    pixels.
    """

    planes: np.ndarray
    surface_end: np.ndarray
    camera: Pinhole
    outlines: Outlines | None = None

    @property
    def inverse_depth(self) -> np.ndarray:
        """[H·W] f32: 1/depth at the pixels' centres, 0 where there is none."""
        return self.planes[:, 0]

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        depth: np.ndarray,
        seen: np.ndarray,
        triangles: np.ndarray,
        points: np.ndarray,
        camera: Pinhole,
        *,
        cut: CutOuts | None = None,
        is_exact: bool = True,
    ) -> FirstView:
        """Build it from the first frame's visible ``pixels`` [P], their ``depth`` [P] and the ``triangles`` [M,3] that
        they have ``seen`` [P].

        ``points`` [N,3] f64: the vertices in the first camera's optical space.  ``cut``: the triangles with holes.
        ``is_exact``: outlines are; else a point is seen where the centre of its pixel does not hide it.
        """
        numbers = np.flatnonzero(np.bincount(seen, minlength=len(triangles)))
        places = np.empty(len(triangles), np.int32)
        places[numbers] = np.arange(len(numbers), dtype=np.int32)
        of_pixels = _planes_of(triangles[numbers], points, camera).take(places.take(seen), axis=0)
        of_pixels[:, 0] = 1.0 / depth
        planes = np.zeros((camera.height * camera.width, 4), np.float32)
        planes.view(np.complex128)[pixels] = of_pixels.view(np.complex128)  # four floats at a time
        inverse_depth = np.ascontiguousarray(planes[:, 0]).reshape(camera.height, camera.width)
        outlines = None
        if is_exact and len(pixels):
            nearest = np.full(camera.height * camera.width, NOTHING, np.int32)
            nearest[pixels] = seen
            outlines = Outlines.of(planes, nearest, triangles, points, camera, None if cut is None else cut.triangles)
        return cls(planes, _surface_end(inverse_depth).reshape(-1), camera, outlines)

    def shows(self, xy: np.ndarray, depth: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
        """[P] bool: the point was inside the first frame and nothing hid it there.

        ``xy`` [P,2] f64: its pixel in the first frame, NaN behind the camera; ``depth`` [P] f64: its depth there.
        ``inside`` [P] bool: `in_first_frame`, where it is known.
        """
        width, height = self.camera.width, self.camera.height
        visible = depth >= self.camera.clip_start
        visible &= in_first_frame(xy, width, height) if inside is None else inside
        if not depth.max(initial=0.0) <= self.camera.clip_end:  # or one is no number
            visible &= (depth <= self.camera.clip_end) | (depth >= BEYOND)
        x, y = xy[:, 0], xy[:, 1]
        hidden = np.flatnonzero(~visible)
        if hidden.size:
            x, y, depth = x.copy(), y.copy(), depth.copy()
            x[hidden] = y[hidden] = depth[hidden] = 0.0
        column = np.minimum(x.astype(np.int32), width - 1)
        row = np.minimum(y.astype(np.int32), height - 1)
        pixel = row.astype(np.int64)
        pixel *= width
        pixel += column
        x, y = x - column, y - row
        decided = answers = None
        if self.outlines is not None:
            decided, answers = self.outlines.decide(pixel, x, y, depth, VISIBLE_DEPTH_SHARE)
        found = self.planes.view(np.complex128).reshape(-1).take(pixel).view(np.float32).reshape(-1, 4)
        surface = found[:, 0]
        x -= 0.5
        y -= 0.5
        change = found[:, 1] * x.astype(np.float32)
        change += found[:, 2] * y.astype(np.float32)
        if self.camera.is_orthographic:
            surface = surface / np.maximum(1.0 + change * surface, NEARLY_NOTHING)  # 1 / (depth + change of depth)
        else:
            surface = surface + change
        surface = np.minimum(np.maximum(surface, found[:, 3]), self.surface_end.take(pixel))
        shown = surface * depth <= 1.0 + VISIBLE_DEPTH_SHARE
        if decided is not None:
            shown[decided] = answers
        shown[hidden] = False
        return shown


def _planes_of(triangles: np.ndarray, points: np.ndarray, camera: Pinhole) -> np.ndarray:
    """[M,4] f32: what `FirstView.planes` holds of a pixel that sees one of the ``triangles`` [M,3], but the first."""
    a, b, c = (points.take(corner, axis=0) for corner in triangles.T)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A plane n·p = d is seen along the ray r at depth d / (n·r): 1/depth is linear in the picture.
        per_pixel = -normal[:, 2] if camera.is_orthographic else np.einsum("pk,pk->p", normal, a)
        gradient = (normal[:, :2] / (per_pixel[:, None] * np.array(camera.focal_px))).astype(np.float32)
    gradient[~np.isfinite(gradient).all(axis=1)] = 0.0
    ends = np.stack([a[:, 2], b[:, 2], c[:, 2]])
    farthest = np.where((ends > 0.0).all(axis=0), ends.max(axis=0), np.inf)
    planes = np.zeros((len(triangles), 4), np.float32)
    planes[:, 1:3], planes[:, 3] = gradient, 1.0 / farthest
    return planes


def _surface_end(inverse_depth: np.ndarray) -> np.ndarray:
    """The smallest 1/depth in 3×3 pixels of the middle one's surface, [H,W]; 0 where there is none."""
    framed = np.pad(inverse_depth, 1)
    smallest = inverse_depth.copy()
    least = inverse_depth / np.float32(1.0 + SAME_SURFACE_SHARE)
    height, width = inverse_depth.shape
    for step_y in range(3):
        for step_x in range(3):
            neighbour = framed[step_y : step_y + height, step_x : step_x + width]
            smallest = np.where(neighbour >= least, np.minimum(smallest, neighbour), smallest)
    return smallest
