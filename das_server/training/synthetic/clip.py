# SPDX-License-Identifier: GPL-3.0-or-later
"""One synthetic clip: scene, image, exact tracks, and a tracking video, clean or damaged as real trackers leave it."""

from dataclasses import dataclass

import numpy as np

from .raycast import ROOM, first_frame_positions, render
from .scene import sample_scene

DAMAGED_SHARE = 0.3
"""Share of clips whose tracking video is degraded."""
BLACK_BACKGROUND_SHARE = 0.12
"""Share of clips with a room or ground whose tracks show the objects only."""


@dataclass(frozen=True)
class SyntheticClip:
    """`rgb`, `tracking` `[T, H, W, 3]` u8; `coverage`, `first_frame_visible` `[T, H, W]` bool;
    `first_frame_xy` `[T, H, W, 2]` f32 pixels, NaN where the tracking video is black by right."""

    rgb: np.ndarray
    tracking: np.ndarray
    coverage: np.ndarray
    first_frame_xy: np.ndarray
    first_frame_visible: np.ndarray


def make_clip(seed: int, bank: np.ndarray, num_frames: int, height: int, width: int, *, samples: int = 2,
              damage: bool = True) -> SyntheticClip:
    """Make clip number `seed`; `bank` is a `make_texture_bank`, `damage=False` keeps every tracking video exact."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, num_frames, height, width, len(bank))
    size = (num_frames, height, width)
    used, faces = np.unique(scene.faces, return_inverse=True)
    textures = bank[used]
    rgb, hit, local, depth = render(size, scene.focal, scene.cameras, scene.kinds, scene.rotation, scene.position,
                                    scene.scale, faces.reshape(scene.faces.shape), scene.tiling, textures,
                                    textures.mean((1, 2)), scene.lights, scene.ambient, scene.shadows, scene.sky,
                                    samples)
    xyz, visible = first_frame_positions(size, scene.focal, scene.kinds, scene.rotation, scene.position, scene.scale,
                                         hit, local)
    coverage = hit >= 0
    if scene.kinds[0] >= ROOM and rng.random() < BLACK_BACKGROUND_SHARE and len(scene.kinds) > 1:
        background = hit == 0
        coverage = coverage & ~background
        visible = visible & ~background
        xyz[background] = np.nan
    tracking = colour_tracks(xyz, depth[0][coverage[0]], height, width)
    if damage:
        tracking = damaged_sometimes(rng, tracking)
    return SyntheticClip(rgb, tracking, coverage, xyz[..., :2], visible)


def colour_tracks(xyz: np.ndarray, first_depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Colour first-frame positions as the exporter does: R = x/width, G = y/height, B = inverse depth between its 2nd
    and 98th percentile over the first frame's surface pixels (`first_depth` `[K]`); black where there is none."""
    inverse = 1 / first_depth if len(first_depth) else np.ones(1)
    low, high = np.percentile(inverse, (2, 98))
    scaled = np.stack([xyz[..., 0] / width, xyz[..., 1] / height, (1 / xyz[..., 2] - low) / max(high - low, 1e-9)], -1)
    return np.nan_to_num(np.round(np.clip(scaled, 0, 1) * 255), nan=0.0).astype(np.uint8)


def damaged_sometimes(rng: np.random.Generator, tracking: np.ndarray) -> np.ndarray:
    """`tracking` `[T, H, W, 3]` u8 as it is, or, in `DAMAGED_SHARE` of all cases, a damaged copy."""
    return _damage(rng, tracking) if rng.random() < DAMAGED_SHARE else tracking


def _damage(rng: np.random.Generator, tracking: np.ndarray) -> np.ndarray:
    """What point trackers and splatting do: missing pixels, missing patches, square blocks, noisy colours."""
    tracking = tracking.copy()
    frames, height, width, _ = tracking.shape
    kind = rng.integers(4)
    if kind in (0, 3):  # each point drawn as a square
        side = int(rng.integers(2, 5))
        shift = rng.integers(0, side, 2)
        rows = np.clip((np.arange(height) + shift[0]) // side * side - shift[0] + side // 2, 0, height - 1)
        columns = np.clip((np.arange(width) + shift[1]) // side * side - shift[1] + side // 2, 0, width - 1)
        tracking[1:] = tracking[1:, rows][:, :, columns]
    if kind in (1, 3):  # pixels no splat reached
        lost = rng.random((frames - 1, height, width)) < rng.uniform(0.02, 0.3)
        tracking[1:][lost] = 0
    if kind == 1 and rng.random() < 0.5:  # patches the tracker lost
        for _ in range(int(rng.integers(1, 5))):
            y, x, t = int(rng.integers(height)), int(rng.integers(width)), int(rng.integers(1, frames))
            reach = int(rng.integers(3, max(4, height // 6)))
            tracking[t:, max(0, y - reach):y + reach, max(0, x - reach):x + reach] = 0
    if kind == 2:  # noisy positions and depths
        drawn = tracking.any(-1, keepdims=True)
        noise = rng.standard_normal(tracking.shape) * rng.uniform(0.5, 4, 3)
        tracking = np.where(drawn, np.clip(np.round(tracking + noise), 0, 255), 0).astype(np.uint8)
    return tracking
