# SPDX-License-Identifier: GPL-3.0-or-later
"""The arrays that the exporter hands to the tracking video and what comes back: cameras, geometry, tracking video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .changes import Changes
from .cut_outs import CutOuts

TRACKED, SILHOUETTE, BACKGROUND, HOLE = 0, 1, 2, 3
"""Roles of triangles: their points are tracked; they hide what is behind them, and nobody knows their points from one
frame to another; they are tracked and drawn behind everything else, as if they were far away; they hide what is behind
them and are no surface themselves, as a holdout: black, whatever is there."""

OFF_SCREEN = "off_screen"
"""Code of a `Note` about an object that never comes into view."""


@dataclass(frozen=True)
class CameraPath:
    """T cameras that see a shot, one per frame, all with the same picture size: pinholes, or orthographic ones.

    ``camera_from_world`` [T,4,4] f64: world (Blender units, +Z up) to camera (+X right, +Y up, looks along −Z),
    no scale.
    ``focal_px`` [T,2] f64 (x, y) and ``principal_px`` [T,2] f64 (x, y): pixels, origin top left, y down.
    A camera-space point (X, Y, Z) with depth d = −Z > 0 is seen at
    ``x = principal_x + focal_x · X / d``, ``y = principal_y − focal_y · Y / d``; pixel centres lie at +0.5.
    ``clip_start``, ``clip_end`` [T] f64, Blender units: nothing nearer and nothing farther is drawn.  ``width``,
    ``height``: pixels.
    ``virtual_distance`` [T] f64, Blender units: 0 for a pinhole; else the camera is orthographic, ``focal_px`` is
    pixels per Blender unit (``x = principal_x + focal_x · X``), and its depths count from a point so far behind it.
    None: all are pinholes.
    """

    camera_from_world: np.ndarray
    focal_px: np.ndarray
    principal_px: np.ndarray
    clip_start: np.ndarray
    clip_end: np.ndarray
    width: int
    height: int
    virtual_distance: np.ndarray | None = None

    @property
    def num_frames(self) -> int:
        return int(self.camera_from_world.shape[0])


@dataclass(frozen=True, order=True)
class Note:
    """What renders and is not tracked, or not as it renders, and why.

    ``name``: the object's.  ``code``: stable, for programs.  ``words``: what follows the name in a sentence.
    """

    name: str
    code: str
    words: str

    @property
    def sentence(self) -> str:
        return f"{self.name!r} {self.words}."


@dataclass(frozen=True)
class GeometrySequence:
    """All triangles of a shot with their vertices in every frame.

    ``triangles`` [M,3] i32: vertex indices, the same in every frame.
    ``vertices`` [T,N,3] f32: world space, Blender units; an array, or `spool.SpooledVertices`, which reads a frame at a
    time from disk.  ``cameras``: `CameraPath` of the same T.
    ``frames``: the T Blender frame numbers, increasing; the first is the first frame.  ``appearance``: digest of what
    else decides how the first frame looks, "" where nobody asked.  ``notes``: what renders and is not tracked, or not
    as it renders.  ``cut``: the triangles that have holes, None where none has.
    ``roles`` [M] u8: what each triangle is for, None where all are `TRACKED`.
    ``changes``: which vertices and triangles belong to meshes whose topology changes, None where none does; such
    vertices are NaN outside their epoch's life, and `drawn.DrawnSurfaces` follows them beyond it.
    ``objects`` [M] i32: whose each triangle is, an index into ``names``; None where nobody said.
    """

    triangles: np.ndarray
    vertices: np.ndarray
    cameras: CameraPath
    frames: tuple[int, ...]
    appearance: str = ""
    notes: tuple[Note, ...] = ()
    cut: CutOuts | None = None
    changes: Changes | None = None
    roles: np.ndarray | None = None
    objects: np.ndarray | None = None
    names: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return int(self.vertices.shape[0])


@dataclass(frozen=True)
class TrackingVideo:
    """A 3D tracking video and the exact correspondences behind it; rows are top-down.

    ``video`` [T,H,W,3] u8: the first-frame (x, y, inverse depth) of the surface point seen by each pixel, black where
    there is none.
    ``coverage`` [T,H,W] bool: a surface is seen.
    ``first_frame_xy`` [T,H,W,2] f32: where that point lay in the first frame, pixels (may lie outside the picture);
    NaN where there is no surface or the point lay behind the first camera.
    ``first_frame_visible`` [T,H,W] bool: that point was inside the first frame and nothing hid it there.
    Where the sky is tracked, its places count as such points, in all but ``coverage``.
    Both are None in one that was drawn for its colours only.
    ``inverse_depth_range``: (low, high), the percentiles that the blue channel spans, 1/Blender units.
    ``frames``: the T Blender frame numbers.
    """

    video: np.ndarray
    coverage: np.ndarray
    first_frame_xy: np.ndarray | None
    first_frame_visible: np.ndarray | None
    inverse_depth_range: tuple[float, float]
    frames: tuple[int, ...]
