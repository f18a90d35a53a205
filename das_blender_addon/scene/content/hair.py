# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair of an evaluated depsgraph: objects of hair curves, and the hair of particle systems with its children."""

from __future__ import annotations

import numpy as np

from ...compat import hair_is_straight, poly_hair_is_straight
from .ribbons import Strands

DEFAULT_RADIUS = 0.005
"""Blender units, of curves that have no radius."""
POLY = 1
"""The `curve_type` of curves that lead straight from point to point."""
READ_POINTS = 100_000
"""Points of a particle system's hair that are read in each frame, at most: Blender gives them to scripts one by one."""


def read_curves(data, scene) -> Strands | None:
    """The strands of an object of hair curves, as a render of ``scene`` has them; None where there is none."""
    points = np.empty((len(data.points), 3), np.float32)
    if not len(data.curves) or not len(points):
        return None
    starts = np.empty(len(data.curve_offset_data), np.int32)
    data.curve_offset_data.foreach_get("value", starts)
    data.attributes["position"].data.foreach_get("vector", points.reshape(-1))
    radii = np.full(len(points), DEFAULT_RADIUS, np.float32)
    radius = data.attributes.get("radius")
    if radius is not None and radius.domain == "POINT" and radius.data_type == "FLOAT":
        radius.data.foreach_get("value", radii)
    return _with_segments(points, radii, starts.astype(np.int64), hair_is_straight(scene) or _is_poly(data, scene))


def _is_poly(data, scene) -> bool:
    """Whether all curves lead straight from point to point, and Blender draws them so."""
    kinds = data.attributes.get("curve_type")
    if not poly_hair_is_straight(scene) or kinds is None:
        return False
    values = np.empty(len(kinds.data), np.int32)
    kinds.data.foreach_get("value", values)
    return bool((values == POLY).all())


def hair_systems(shape) -> list:
    """The particle systems of an evaluated object whose hair renders."""
    found = []
    for modifier in shape.modifiers:
        if modifier.type == "PARTICLE_SYSTEM" and modifier.show_render:
            system = modifier.particle_system
            if system.settings.type == "HAIR" and system.settings.render_type == "PATH":
                found.append(system)
    return found


def read_particle_hair(shape, system, scene) -> Strands | None:
    """The strands of a particle system of the evaluated object ``shape``, in its local space, as a render of ``scene``
    has them; a share of those of a dense one, as much thicker.  None where there is none.
    """
    settings = system.settings
    parents, children = len(system.particles), len(system.child_particles)
    numbers = range(parents, parents + children) if children and settings.child_type != "NONE" else range(parents)
    steps = (1 << settings.render_step) + 1
    if settings.kink == "SPIRAL":
        steps += settings.kink_extra_steps
    every = -(-len(numbers) * steps // READ_POINTS) or 1
    read = numbers[::every]
    if not read:
        return None
    place, order = system.co_hair, range(steps)
    points = np.array(
        [place(object=shape, particle_no=number, step=step) for number in read for step in order], np.float32
    ).reshape(len(read), steps, 3)
    _end_where_cut(points)
    radii = _radii(settings, points) * np.float32(len(numbers) / len(read))
    local_from_world = np.linalg.inv(np.array(shape.matrix_world, np.float64)).astype(np.float32)
    points = points.reshape(-1, 3) @ local_from_world[:3, :3].T + local_from_world[:3, 3]
    starts = np.arange(len(read) + 1, dtype=np.int64) * steps
    return Strands(points, radii.reshape(-1), starts, hair_is_straight(scene))


def _end_where_cut(points: np.ndarray) -> None:
    """Strands [S,K,3] that end before the last step (their length is random, or a child's is shorter) stay at their
    end; Blender gives zeros for the steps beyond.
    """
    for step in range(1, points.shape[1]):
        beyond = ~points[:, step].any(axis=1)
        points[beyond, step] = points[beyond, step - 1]


def _radii(settings, points: np.ndarray) -> np.ndarray:
    """[S,K] f32 of strands ``points`` [S,K,3]: from root to tip along their length, with the system's shape."""
    lengths = np.linalg.norm(np.diff(points, axis=1), axis=2)
    along = np.concatenate([np.zeros((len(points), 1), np.float32), np.cumsum(lengths, axis=1)], axis=1)
    along = 1.0 - along / np.maximum(along[:, -1:], np.float32(1e-12))
    if settings.shape < 0.0:
        along = along ** (1.0 + settings.shape)
    elif settings.shape > 0.0:
        along = along ** (1.0 / (1.0 - min(settings.shape, 0.999)))
    root, tip = (0.5 * settings.radius_scale * radius for radius in (settings.root_radius, settings.tip_radius))
    radii = along * (root - tip) + tip
    if settings.use_close_tip:
        radii[:, -1] = 0.0
    return radii.astype(np.float32)


def _with_segments(points, radii, starts, is_straight: bool) -> Strands | None:
    """Without the strands that are a single point or none."""
    counts = np.diff(starts)
    if (counts >= 2).all():
        return Strands(points, radii, starts, is_straight)
    kept = counts >= 2
    if not kept.any():
        return None
    there = np.repeat(kept, counts)
    return Strands(points[there], radii[there], np.concatenate([[0], np.cumsum(counts[kept])]), is_straight)
