# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pixels of one frame see: the nearest triangle of each, cut at the camera's near and far planes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import SceneError
from .cut_outs import CutOuts
from .geometry import GeometrySequence
from .peeling import nearest_uncut
from .projection import BEYOND, Pinhole
from .rasteriser import NO_TRIANGLE, rasterise
from .surface import interpolate_on_surface


def seen_surfaces(
    points: np.ndarray,
    triangles: np.ndarray,
    camera: Pinhole,
    check: Callable[[], None] | None = None,
    cut: CutOuts | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that see a surface, and which: flat pixel numbers [P] and indices into ``triangles`` [P].

    ``points`` [N,3] f64, optical space of ``camera``; ``triangles`` [M,3].  ``check`` is called between chunks of work;
    what it raises passes through.  ``cut``: those of the triangles that have holes.
    """
    if cut is None:
        triangle_index = rasterise(points, triangles, camera, check=check).reshape(-1)
    else:
        triangle_index = nearest_uncut(points, triangles, camera, cut, check)
    pixels = np.flatnonzero(triangle_index != NO_TRIANGLE)
    pixels = _within_clip_end(pixels, triangle_index, triangles, points, camera)
    return pixels, triangle_index[pixels]


def _within_clip_end(pixels, triangle_index, triangles, points, camera) -> np.ndarray:
    """Those of the ``pixels`` [P] whose surface point is not beyond the camera's far plane.

    What lies behind it is nearest to nobody: the rest of the picture stays as it is.
    """
    depth = points[:, 2]
    if not pixels.size or not (depth > camera.clip_end).any():
        return pixels
    surface = interpolate_on_surface(pixels, triangle_index[pixels], triangles, points, depth[:, None], camera)[:, 0]
    return pixels[(surface <= camera.clip_end) | (surface >= BEYOND)]


def check_geometry(geometry: GeometrySequence) -> None:
    """Raise `SceneError` when the arrays of ``geometry`` do not fit together."""
    vertices, triangles, cameras = geometry.vertices, geometry.triangles, geometry.cameras
    if vertices.ndim != 3 or vertices.shape[2] != 3 or not len(vertices):
        raise SceneError(f"Vertices must be [T,N,3] with T ≥ 1 and are {list(vertices.shape)}.")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise SceneError(f"Triangles must be [M,3] and are {list(triangles.shape)}.")
    if not len(vertices) == cameras.num_frames == len(geometry.frames):
        raise SceneError(
            f"The vertices have {len(vertices)} frames, the cameras {cameras.num_frames} and there are "
            f"{len(geometry.frames)} frame numbers: they must be equal."
        )
    if len(triangles) and not 0 <= int(triangles.min()) <= int(triangles.max()) < vertices.shape[1]:
        raise SceneError(
            f"Triangles name vertices {int(triangles.min())} to {int(triangles.max())}, "
            f"but there are {vertices.shape[1]} vertices."
        )
