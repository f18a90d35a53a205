# SPDX-License-Identifier: GPL-3.0-or-later
"""Motion as keyframes: of the camera along a path, of a thing from where it is to somewhere else."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ..errors import SettingsError


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


def path_of_file(path: Path, num_frames: int) -> np.ndarray:
    """[T,4,4] f64: the poses of the camera of the one scene with a camera in the .blend ``path``, relative to that
    scene's first frame, for its first ``num_frames`` frames.  The open file is left as it was.  Raises `SettingsError`.
    """
    if not path.is_file():
        raise SettingsError(f"There is no file {path} with a camera path.", field="path")
    if bpy.data.filepath and os.path.realpath(bpy.data.filepath) == os.path.realpath(path):
        # Blender cannot read the open file a second time; 4.2 crashes.
        raise SettingsError(f"{path} is the open file; open another one, or none, to follow its camera.", field="path")
    before, window = set(bpy.data.user_map()), bpy.context.window
    shown = window.scene if window is not None else None
    try:
        with bpy.data.libraries.load(os.fspath(path), link=False) as (source, target):
            target.scenes = list(source.scenes)
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"{path} cannot be opened for its camera: {str(error).strip()}", field="path") from error
    try:
        scenes = [scene for scene in target.scenes if scene is not None and scene.camera is not None]
        if len(scenes) != 1:
            raise SettingsError(
                f"{path} has {len(scenes)} scenes with a camera, and one is needed to say which path is meant.",
                field="path",
            )
        return _poses(scenes[0], num_frames, window)
    finally:
        if window is not None:
            window.scene = shown
        bpy.data.batch_remove(set(bpy.data.user_map()) - before)


def _poses(scene, num_frames: int, window) -> np.ndarray:
    if window is not None:
        window.scene = scene
    poses = []
    for number in range(num_frames):
        scene.frame_set(scene.frame_start + number * scene.frame_step)
        evaluated = scene.camera.evaluated_get(scene.view_layers[0].depsgraph)
        poses.append(np.array(evaluated.matrix_world.normalized(), dtype=np.float64))
    return np.linalg.inv(poses[0]) @ np.stack(poses)
