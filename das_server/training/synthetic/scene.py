# SPDX-License-Identifier: GPL-3.0-or-later
"""Random scenes: what stands where, how it moves, how the camera moves, how it is lit."""

import math
from dataclasses import dataclass

import numpy as np

from .raycast import BOX, CARD, GROUND, ROOM, SPHERE


@dataclass(frozen=True)
class SyntheticScene:
    """Everything the ray caster needs; the shapes are those of `raycast.render`."""

    focal: float
    cameras: np.ndarray
    kinds: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    scale: np.ndarray
    faces: np.ndarray
    tiling: np.ndarray
    lights: np.ndarray
    ambient: float
    shadows: bool
    sky: np.ndarray


def sample_scene(rng: np.random.Generator, num_frames: int, height: int, width: int, num_textures: int, *,
                 orbit_degrees: float | None = None) -> SyntheticScene:
    """Draw a scene for a clip; longer clips move somewhat further. `orbit_degrees`: by how much the camera goes round
    what is seen, None for any motion."""
    reach = (num_frames / 9) ** 0.35
    focal = max(width, height) / (2 * math.tan(math.radians(rng.uniform(34, 70)) / 2))
    background = rng.choice(["room", "outdoor", "sky"], p=[0.55, 0.28, 0.17])
    num_objects = int(rng.integers(1, 6)) + (background != "sky")
    poses = _Poses(num_frames, num_objects)
    faces = rng.integers(0, num_textures, (num_objects, 6))
    tiling = rng.uniform(0.5, 1.6, num_objects)
    first = 0
    if background != "sky":
        _place_background(rng, background, poses, tiling)
        first = 1
    for index in range(first, num_objects):
        on_ground = background == "outdoor" and rng.random() < 0.6
        _place_object(rng, index, poses, focal, height, width, reach, on_ground)
    same = rng.random(num_objects) < 0.6
    faces[same] = faces[same, :1]
    lit = rng.random() < 0.75
    sky = rng.random((2, 3)) * 0.8 + 0.2 if rng.random() < 0.6 else np.repeat(rng.random((1, 1)), 6).reshape(2, 3)
    cameras = _cameras(rng, num_frames, reach, background, orbit_degrees)
    return SyntheticScene(focal, cameras, poses.kinds, poses.rotation, poses.position, poses.scale,
                          faces, tiling, _lights(rng, num_frames, background),
                          rng.uniform(0.2, 0.7) if lit else 1.0, bool(lit and rng.random() < 0.55), sky)


class _Poses:
    def __init__(self, num_frames: int, num_objects: int):
        self.kinds = np.zeros(num_objects, np.int64)
        self.rotation = np.tile(np.eye(3), (num_frames, num_objects, 1, 1))
        self.position = np.zeros((num_frames, num_objects, 3))
        self.scale = np.ones((num_frames, num_objects, 3))


def _place_background(rng, background, poses, tiling):
    if background == "outdoor":
        poses.kinds[0] = GROUND
        poses.position[:, 0] = (0, rng.uniform(0.5, 1.8), 0)
        poses.rotation[:, 0] = _rotation(np.array([1.0, 0, 0]), rng.uniform(-0.15, 0.35)) @ _rotation(
            np.array([0, 1.0, 0]), rng.uniform(0, 6.3))
        tiling[0] = rng.uniform(0.3, 1.2)
        return
    poses.kinds[0] = ROOM
    poses.scale[:, 0] = (rng.uniform(3, 7), rng.uniform(1.5, 4), rng.uniform(4, 9))
    poses.position[:, 0] = (rng.uniform(-1, 1), rng.uniform(-0.5, 0.5), rng.uniform(0, 2))
    poses.rotation[:, 0] = _rotation(rng.standard_normal(3), rng.uniform(0, 0.5))
    tiling[0] = rng.uniform(0.7, 2.0)


def _place_object(rng, index, poses, focal, height, width, reach, on_ground):
    """One object: shape, start, path, spin, squash; one in four stands still, one in five comes from outside."""
    num_frames = len(poses.position)
    kind = int(rng.choice([SPHERE, BOX, CARD], p=[0.38, 0.42, 0.2]))
    poses.kinds[index] = kind
    depth = rng.uniform(1.8, 5.0)
    half_width, half_height = 0.5 * width / focal * depth, 0.5 * height / focal * depth
    radius = (rng.uniform(0.06, 0.2) if rng.random() < 0.25 else rng.uniform(0.18, 0.6)) * min(half_width, half_height)
    shape = rng.uniform(0.5, 1.4, 3) if kind != SPHERE or rng.random() < 0.5 else np.ones(3)
    if rng.random() < 0.15:
        shape[rng.integers(3)] *= rng.uniform(1.5, 3)
    moves = rng.random() < 0.75
    speed = 0.5 * depth * width / focal * rng.uniform(0.2, 1) * moves * reach
    velocity = rng.standard_normal(3) * (0.5, 0.4, 0.3) * speed
    spread = 0.85
    if moves and rng.random() < 0.2:  # enters from outside
        spread = 1.5
    start = np.array([rng.uniform(-spread, spread) * half_width, rng.uniform(-spread, spread) * half_height, depth])
    if spread > 1:
        velocity[:2] = -start[:2] * rng.uniform(0.4, 1.2)
    if on_ground:
        normal = poses.rotation[0, 0] @ np.array([0, -1.0, 0])
        start -= normal * (normal @ (start - poses.position[0, 0]) - radius * shape[1] * rng.uniform(0.9, 1.1))
        velocity -= normal * (normal @ velocity) * 0.9
        start[2] = max(start[2], 1.5)
    spin = 0.0
    if moves and rng.random() < 0.65:
        spin = rng.uniform(0, 1.5) * reach if rng.random() < 0.8 else rng.uniform(1.5, 6.0)
    axis = np.array([0, 1.0, 0]) + 0.2 * rng.standard_normal(3) if rng.random() < 0.5 else rng.standard_normal(3)
    first = _rotation(rng.standard_normal(3), rng.uniform(0, 0.6 if kind == CARD or on_ground else math.pi))
    bob = rng.standard_normal(3) * 0.12 * depth * (rng.random() < 0.3) * moves
    cycles = rng.uniform(0.5, 1.5) * reach
    squash = rng.uniform(0.1, 0.4) * (rng.random() < 0.25) * moves
    path, turn = _profile(rng, num_frames), _profile(rng, num_frames)
    for t in range(num_frames):
        wave = math.sin(2 * math.pi * cycles * t / num_frames)
        poses.position[t, index] = start + velocity * path[t] + bob * wave
        poses.position[t, index, 2] = max(poses.position[t, index, 2], 1.0)
        poses.rotation[t, index] = _rotation(axis, spin * turn[t]) @ first
        stretch = 1 + squash * wave
        poses.scale[t, index] = radius * shape * (stretch**-0.5, stretch, stretch**-0.5)


def _cameras(rng, num_frames, reach, background, orbit_degrees):
    """`[T, 3, 4]` camera from world, the first the identity: still, dolly, pan, orbit or hand-held."""
    cameras = np.zeros((num_frames, 3, 4))
    style = rng.random()
    path, turn = _profile(rng, num_frames), _profile(rng, num_frames)
    shift = rng.standard_normal(3) * (0.5, 0.2, 0.7) * (style > 0.3) * rng.uniform(0.2, 1.2) * reach
    if background == "outdoor":
        shift[1] = -abs(shift[1])  # stay above the ground
    axis, angle = rng.standard_normal(3) * (0.5, 1.0, 0.25), rng.uniform(0, 0.32) * (style > 0.45) * reach
    pivot = np.array([0, 0, rng.uniform(2.5, 4)])
    orbit = rng.uniform(-0.7, 0.7) * reach
    shake = rng.uniform(0, 0.012) * (rng.random() < 0.15)
    if orbit_degrees is not None:
        style, orbit = 1.0, math.radians(orbit_degrees)
    for t in range(num_frames):
        if style > 0.85:
            rotation = _rotation(np.array([0, 1.0, 0]), orbit * path[t])
            cameras[t] = np.column_stack([rotation, pivot - rotation @ pivot])
        else:
            rotation = _rotation(axis, angle * turn[t])
            if t and shake:
                rotation = _rotation(rng.standard_normal(3), shake) @ rotation
            cameras[t] = np.column_stack([rotation, -rotation @ (shift * path[t])])
    return cameras


def _lights(rng, num_frames, background):
    """`[T, 3]` unit vectors towards the light; one light in five wanders."""
    light = rng.standard_normal(3) * (1, 0.6, 1) + (0, -1.2 if background == "outdoor" else -0.8, -0.5)
    wander = rng.standard_normal(3) * (0.8 if rng.random() < 0.2 else 0)
    lights = light + wander * np.linspace(0, 1, num_frames)[:, None]
    return lights / np.linalg.norm(lights, axis=1, keepdims=True)


def _profile(rng, num_frames):
    """`[T]` progress starting at 0: steady, easing in, easing out, or there and back."""
    steps = np.linspace(0, 1, num_frames)
    kind = rng.integers(4)
    if kind == 0:
        return steps
    if kind == 1:
        return steps * steps
    if kind == 2:
        return np.sin(steps * math.pi / 2)
    return np.sin(steps * math.pi * rng.uniform(0.8, 1.6))


def _rotation(axis, angle):
    axis = axis / (np.linalg.norm(axis) + 1e-9)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
