# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion as keyframes: of the camera along a path, of a thing from where it is to somewhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from mathutils import Matrix


def key_camera(camera, path: np.ndarray, frame_start: int) -> None:
    """A keyframe of ``camera`` for each pose of ``path`` [T,4,4] (camera → first camera), from ``frame_start`` on."""
    world = np.array(camera.matrix_world, dtype=np.float64)
    before = None
    for number, pose in enumerate(path):
        place, turn, _ = Matrix((world @ pose).tolist()).decompose()
        angles = turn.to_euler(camera.rotation_mode) if before is None else turn.to_euler(camera.rotation_mode, before)
        camera.location, camera.rotation_euler, before = place, angles, angles
        for name in ("location", "rotation_euler"):
            camera.keyframe_insert(name, frame=frame_start + number)
    _put_back(camera, world)


def _put_back(camera, world: np.ndarray) -> None:
    camera.matrix_world = Matrix(world.tolist())


def key_thing(
    thing,
    *,
    by: Sequence[float] = (0.0, 0.0, 0.0),
    rotate_degrees: Sequence[float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    frame_start: int,
    frame_end: int,
) -> None:
    """Keyframes of the object ``thing``: where it is at ``frame_start``; moved ``by`` Blender units (the world's axes),
    turned about its origin and scaled at ``frame_end``.
    """
    names = ("location", "rotation_euler", "scale")
    for name in names:
        thing.keyframe_insert(name, frame=frame_start)
    before = [tuple(getattr(thing, name)) for name in names]
    thing.location = [here + step for here, step in zip(thing.location, by, strict=True)]
    turned = zip(thing.rotation_euler, rotate_degrees, strict=True)
    thing.rotation_euler = [here + math.radians(angle) for here, angle in turned]
    thing.scale = [here * scale for here in thing.scale]
    for name in names:
        thing.keyframe_insert(name, frame=frame_end)
    for name, value in zip(names, before, strict=True):
        setattr(thing, name, value)
