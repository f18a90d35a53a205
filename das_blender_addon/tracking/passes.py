# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of the surface that each pixel of a frame sees: how far away it is, which way it faces, how it moves,
and whose it is.  Sampled at pixel centres, not anti-aliased.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .drawn import Drawn, DrawnSurfaces
from .geometry import GeometrySequence
from .projection import BEYOND, Pinhole, pinhole_at
from .seen import seen_surfaces
from .surface import corner_weights, interpolate_on_surface

NO_OBJECT = -1


@dataclass(frozen=True)
class Shading:
    """How triangles are shaded, and what they are made of: of the M triangles of a `GeometrySequence`, at one frame.

    ``row`` [M] i32: of each triangle in ``normals`` [R,3,3] f32 (row, corner, xyz; object space; NaN: as flat as it is)
    and in ``material`` [R] i32, the number among its object's materials; −1 for neither.
    ``member`` [M] i32: of each triangle in ``turns`` [S,3,3] f32, which turn the normals into world space, up to their
    length, and in ``signs`` [S] f32, −1 where an instance is mirrored.
    ``object_index`` [K] i32: Blender's pass index of each of the `GeometrySequence.names`; ``material_index`` [Q] i32:
    that of their materials, which begin at ``first_material`` [K+1].  ``object_names`` [K], ``assets`` [K],
    ``material_names`` [Q]: what Cryptomatte calls them, and the topmost parents of objects.
    """

    row: np.ndarray
    normals: np.ndarray
    material: np.ndarray
    member: np.ndarray
    turns: np.ndarray
    signs: np.ndarray
    object_index: np.ndarray
    material_index: np.ndarray
    first_material: np.ndarray
    object_names: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    material_names: tuple[str, ...] = ()

    def indices(self, row: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pass indices [P] of the ``objects`` [P], and of their materials at the ``row`` [P]; 0 for −1."""
        material = self.material_index[self.material_place(row, objects)]
        known = objects >= 0
        return np.where(known, self.object_index[objects], 0), np.where(known, material, 0)

    def material_place(self, row: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """[P]: the places in ``material_index`` of the materials of the ``objects`` [P] at the ``row`` [P]."""
        first, end = self.first_material[objects], self.first_material[objects + 1]
        number = np.where(row >= 0, np.append(self.material, 0)[row], 0)
        return np.clip(first + number, first, np.maximum(end - 1, first))


@dataclass(frozen=True)
class SurfacePasses:
    """One frame's surface, pixel by pixel; rows top-down.

    ``depth`` [H,W] f32: Blender units along the camera's axis, inf where no surface is seen (or a *Background*).
    ``normal`` [H,W,3] f32: world space, length 1, towards the camera; 0 where there is no surface.
    ``before``, ``after`` [H,W,2] f32: where the surface point was in the frame before, and where it will be in the
    frame after, from where it is now: pixels, x right, y down, through the cameras of these frames; NaN where the point
    was not there or lay behind the camera, and in holes.  Where no surface is seen, of what is infinitely far away; NaN
    there with an orthographic camera that turns.  None where it was not asked for.
    ``objects`` [H,W] i32: the object, an index into ``names``, −1 where there is none; names are those of the file
    (with its library's), an instance has that of the object that it shows.
    ``object_index``, ``material_index`` [H,W] i32: Blender's pass indices, 0 where there is no surface; None where they
    are not known.
    """

    depth: np.ndarray
    normal: np.ndarray
    objects: np.ndarray
    names: tuple[str, ...]
    before: np.ndarray | None = None
    after: np.ndarray | None = None
    object_index: np.ndarray | None = None
    material_index: np.ndarray | None = None


def surface_passes(
    geometry: GeometrySequence,
    index: int,
    *,
    before: int | None = None,
    after: int | None = None,
    shading: Shading | None = None,
    check: Callable[[], None] | None = None,
) -> SurfacePasses:
    """The passes of the frame ``index`` (0-based) of ``geometry``, at the size of its cameras.

    ``before``, ``after``: the frames (0-based) that motion leads from and to, None for no motion.  ``shading``: that of
    this frame; None: normals are those of the flat triangles.  ``check`` is called between chunks of work; what it
    raises passes through.
    """
    camera = pinhole_at(geometry.cameras, index)
    surfaces = DrawnSurfaces(geometry)
    view = _View(camera, surfaces.at(index))
    view.points = surfaces.optical(view.surface, index, camera)
    nearest = seen_surfaces(view.points, view.surface.triangles, camera, check, view.surface.cut)
    view.pixels, view.seen, holes = view.surface.without_holes(*nearest)
    depth = view.interpolated(view.points[:, 2:])[:, 0] - camera.virtual_distance
    depth[depth >= BEYOND / 2] = np.inf
    motion = {}
    for name, other in (("before", before), ("after", after)):
        if other is not None:
            there = pinhole_at(geometry.cameras, other)
            motion[name] = _sky_motion(camera, there)
            motion[name].reshape(-1, 2)[holes] = np.nan
            place = there.project(view.interpolated(surfaces.optical(view.surface, other, there)))
            row, column = np.divmod(view.pixels, camera.width)
            motion[name][row, column] = place - np.stack([column + 0.5, row + 0.5], axis=1)
    own = view.seen if view.surface.of_shot is None else view.surface.of_shot[view.seen]
    normal = _normals(view, surfaces.points(view.surface, index), own, shading)
    objects = np.full(len(own), NO_OBJECT) if view.surface.objects is None else view.surface.objects[view.seen]
    indices = {}
    if shading is not None:
        found = shading.indices(np.where(own >= 0, shading.row[own], NO_OBJECT), objects)
        names = ("object_index", "material_index")
        indices = {name: view.picture(values, 0, np.int32) for name, values in zip(names, found, strict=True)}
    return SurfacePasses(
        depth=view.picture(depth, np.inf, np.float32),
        normal=view.picture(normal, 0.0, np.float32),
        objects=view.picture(objects, NO_OBJECT, np.int32),
        names=geometry.names,
        **motion,
        **indices,
    )


@dataclass
class _View:
    """What a frame's ``pixels`` [P] see: the triangles ``seen`` [P] of ``surface``, whose ``points`` are optical."""

    camera: Pinhole
    surface: Drawn
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def interpolated(self, attribute: np.ndarray) -> np.ndarray:
        """[P,C] f64 of one value [N,C] per point."""
        return interpolate_on_surface(
            self.pixels, self.seen, self.surface.triangles, self.points, attribute, self.camera
        )

    def picture(self, values: np.ndarray, background, dtype) -> np.ndarray:
        """[H,W,…] of the pixels' ``values`` [P,…]."""
        found = np.full((self.camera.height * self.camera.width, *values.shape[1:]), background, dtype)
        found[self.pixels] = values
        return found.reshape(self.camera.height, self.camera.width, *values.shape[1:])


def _sky_motion(camera: Pinhole, there: Pinhole) -> np.ndarray:
    """[H,W,2] f32: from where the pixels of ``camera`` are to where ``there`` sees what is infinitely far behind them.
    """
    turn = there.optical_from_world[:3, :3] @ camera.optical_from_world[:3, :3].T
    if camera.is_orthographic or there.is_orthographic:
        stands = camera.is_orthographic and there.is_orthographic and np.allclose(turn, np.eye(3), atol=1e-9)
        return np.full((camera.height, camera.width, 2), 0.0 if stands else np.nan, np.float32)
    row, column = (axis.reshape(-1) + 0.5 for axis in np.mgrid[: camera.height, : camera.width])
    rays = _rays(camera, column, row)
    found = there.project(rays @ turn.T) - np.stack([column, row], axis=1)
    return found.reshape(camera.height, camera.width, 2).astype(np.float32)


def _rays(camera: Pinhole, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[P,3] f64: the ways, in optical space, in which the places (x, y) [P] of the picture look."""
    rays = np.zeros((len(x), 3))
    rays[:, 2] = 1.0
    if not camera.is_orthographic:
        rays[:, 0] = (x - camera.principal_px[0]) / camera.focal_px[0]
        rays[:, 1] = (y - camera.principal_px[1]) / camera.focal_px[1]
    return rays


def _normals(view: _View, world: np.ndarray, own: np.ndarray, shading: Shading | None) -> np.ndarray:
    """[P,3] f64, towards the camera.  ``world`` [N,3]: the points; ``own`` [P]: the shot's triangles, −1 for none."""
    corners = view.surface.triangles[view.seen]
    a, b, c = (world[corners[:, corner]].astype(np.float64) for corner in range(3))
    flat = np.cross(b - a, c - a)
    smooth = flat.copy()
    if shading is not None:
        row = np.where(own >= 0, shading.row[own], -1)
        member = shading.member[own]
        flat *= np.where(own >= 0, shading.signs[member], 1.0)[:, None]
        smooth = flat.copy()
        weights = corner_weights(view.pixels, view.seen, view.surface.triangles, view.points, view.camera)
        asked = np.flatnonzero(row >= 0)
        local = np.einsum("cp,pcx->px", weights[:, asked], shading.normals[row[asked]].astype(np.float64))
        turned = np.einsum("pxy,py->px", shading.turns[member[asked]].astype(np.float64), local)
        known = np.isfinite(turned).all(axis=1) & (turned != 0.0).any(axis=1)
        smooth[asked[known]] = turned[known]
    turn = view.camera.optical_from_world[:3, :3]
    row, column = np.divmod(view.pixels, view.camera.width)
    ray = _rays(view.camera, column + 0.5, row + 0.5)
    away = np.einsum("px,px->p", ray @ turn, flat) > 0.0
    length = np.linalg.norm(smooth, axis=1)
    return smooth * (np.where(away, -1.0, 1.0) / np.maximum(length, np.finfo(np.float64).tiny))[:, None]
