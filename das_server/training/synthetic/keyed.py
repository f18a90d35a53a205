# SPDX-License-Identifier: GPL-3.0-or-later
"""A stretch of a synthetic shot, and what the key pictures of that shot show of it: what the preview model completes.

The shot is longer than the stretch, and so are its motions: key pictures lie before it, after it and in it, anywhere
in the shot. What they show is composed by the very code that the extension uses.
"""

from dataclasses import dataclass, replace

import numpy as np

from das_blender_addon.tracking.composition import Composer, keys_around
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.geometry import GeometrySequence

from .clip import SyntheticClip, colour_tracks, damaged_sometimes
from .meshes import scene_geometry
from .raycast import ROOM, first_frame_positions, render
from .scene import SyntheticScene, sample_scene

KEY_COUNTS = (0.35, 0.3, 0.2, 0.15)
"""Share of shots with one key picture, with two, ….  With few keys holes are large."""
LONGEST = 6
"""Length of the shot in stretches, at most."""
KEY_AT_START = 0.5
"""Share of stretches that begin at a key picture."""
ORBIT_SHARE = 0.45
ORBIT_DEGREES = (15.0, 100.0)
"""Share of shots whose camera goes round what is seen, and by how much."""
ATTEMPTS = 20


@dataclass(frozen=True)
class KeyedClip:
    """`rgb`, `tracking` `[T, H, W, 3]` u8; `carried` `[T, H, W, 4]` u8: what the key pictures show, the rest filled
    from what is around it, with alpha 0 there; `keys`: their frames, counted from the stretch's first."""

    rgb: np.ndarray
    tracking: np.ndarray
    carried: np.ndarray
    keys: tuple[int, ...]


def make_keyed_clip(seed: int, bank: np.ndarray, num_frames: int, height: int, width: int, *,
                    samples: int = 2) -> KeyedClip:
    """Make clip number `seed`, a stretch of `num_frames` frames; `bank` is a `make_texture_bank`."""
    rng = np.random.default_rng([seed, 7])
    length = num_frames + int(rng.integers(0, (LONGEST - 1) * num_frames + 1))
    start = int(rng.integers(0, length - num_frames + 1))
    for _ in range(ATTEMPTS):
        orbit = rng.uniform(*ORBIT_DEGREES) * rng.choice([-1, 1]) if rng.random() < ORBIT_SHARE else None
        scene = sample_scene(rng, length, height, width, len(bank), orbit_degrees=orbit)
        if stays_inside(scene):
            break
    keys = draw_keys(rng, length, start, num_frames)
    stretch = range(start, start + num_frames)
    frames = sorted({*stretch, *keys})
    clip = _rendered(scene, frames, frames.index(start), bank, height, width, samples)
    where = {frame: place for place, frame in enumerate(frames)}
    pictures = [clip.rgb[where[key]] for key in keys]
    carried = carried_frames(scene_geometry(scene, height, width), keys, pictures, stretch)
    own = slice(where[start], where[start] + num_frames)
    return KeyedClip(clip.rgb[own], damaged_sometimes(rng, clip.tracking[own]), carried,
                     tuple(key - start for key in keys))


def draw_keys(rng: np.random.Generator, length: int, start: int, num_frames: int) -> tuple[int, ...]:
    """Frames of a shot that have key pictures, increasing: one to four of them, anywhere."""
    count = 1 + int(rng.choice(len(KEY_COUNTS), p=KEY_COUNTS))
    keys = set(rng.choice(length, min(count, length), replace=False).tolist())
    if rng.random() < KEY_AT_START:
        keys = {start, *sorted(keys)[:count - 1]} if start not in keys else keys
    return tuple(sorted(keys))


def carried_frames(geometry: GeometrySequence, keys: tuple[int, ...], pictures: list[np.ndarray],
                   indices: range) -> np.ndarray:
    """`[T, H, W, 4]` u8: the frames `indices` as `Detail.carried` gives them, with alpha 0 where no key picture shows
    what is seen.

    `pictures` `[H, W, 3]` u8 of the frames `keys` (0-based, increasing), of the cameras' size."""
    made = np.empty((len(indices), geometry.cameras.height, geometry.cameras.width, 4), np.uint8)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in indices:
        groups.setdefault(keys_around(keys, index), []).append(index)
    for around, group in groups.items():
        composer = Composer([pictures[number] for number in around])
        for frame in correspondences(geometry, [keys[number] for number in around], frame_indices=group,
                                     background=True):
            composed = composer.compose(frame)
            place = made[frame.index - indices.start]
            place[..., :3], place[..., 3] = composed.picture, np.where(composed.known, 255, 0)
    return made


def stays_inside(scene: SyntheticScene) -> bool:
    """Whether the camera stays in the scene's room; from outside, the ray caster sees through its walls."""
    if scene.kinds[0] != ROOM:
        return True
    turn, shift = scene.cameras[:, :, :3], scene.cameras[:, :, 3]
    eye = -np.einsum("tji,tj->ti", turn, shift)
    local = np.einsum("tji,tj->ti", scene.rotation[:, 0], eye - scene.position[:, 0]) / scene.scale[:, 0]
    return bool((np.abs(local) < 0.95).all())


def _rendered(scene: SyntheticScene, frames, first: int, bank, height, width, samples) -> SyntheticClip:
    """The `frames` of a scene, tracks going to the `first` of them (a place in the list)."""
    scene = replace(scene, cameras=scene.cameras[frames], rotation=scene.rotation[frames],
                    position=scene.position[frames], scale=scene.scale[frames], lights=scene.lights[frames])
    size = (len(frames), height, width)
    used, faces = np.unique(scene.faces, return_inverse=True)
    textures = bank[used]
    rgb, hit, local, depth = render(size, scene.focal, scene.cameras, scene.kinds, scene.rotation, scene.position,
                                    scene.scale, faces.reshape(scene.faces.shape), scene.tiling, textures,
                                    textures.mean((1, 2)), scene.lights, scene.ambient, scene.shadows, scene.sky,
                                    samples)
    # `first_frame_positions` looks at frame 0, from the world's origin.
    order = [first, *(place for place in range(len(frames)) if place != first)]
    turn, shift = scene.cameras[first, :, :3], scene.cameras[first, :, 3]
    rotation, position = turn @ scene.rotation[order], scene.position[order] @ turn.T + shift
    xyz, visible = first_frame_positions(size, scene.focal, scene.kinds, rotation, position, scene.scale[order],
                                         hit[order], local[order])
    back = np.argsort(order)
    coverage = hit >= 0
    tracking = colour_tracks(xyz[back], depth[first][coverage[first]], height, width)
    return SyntheticClip(rgb, tracking, coverage, xyz[back][..., :2], visible[back])
