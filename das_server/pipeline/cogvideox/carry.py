# SPDX-License-Identifier: GPL-3.0-or-later
"""The first frame carried along a tracking video: the picture that the preview model completes.

A tracking video says of every pixel where its surface point lay in the first frame: red and green are the position,
blue the inverse depth. Where the first frame shows that very point its colour is looked up; a point that something else
hid takes the colours that the first frame has around it at its own depth; a pixel without a track keeps the first
frame's background, and continues its surroundings where a surface was before it.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from das_blender_addon.errors import ModelError

CARRIES_FIRST_FRAME = "carries_first_frame"
"""Key of a checkpoint's `model_index.json`: true for a model that is given the carried first frame."""
DEPTH_TOLERANCE = 6
"""How far, in 8-bit levels of inverse depth, a point may lie outside the first frame's depths around its position."""
DEPTH_STEP, DEPTH_WIDTH = 16, 10.0
"""Distance between depth layers and the Gaussian width of one, in 8-bit levels of the tracking video's blue."""
FRAMES_AT_ONCE = 8
"""Frames that are worked on together, which bounds the memory."""


def carries_first_frame(folder: Path) -> bool:
    """Whether the checkpoint in `folder` was trained on the carried first frame; the published models were not.

    Raises ModelError where its `model_index.json` is damaged.
    """
    return read_flag(folder, CARRIES_FIRST_FRAME)


def read_flag(folder: Path, key: str) -> bool:
    """What the `model_index.json` in `folder` says of `key`, false where it does not. Raises ModelError where it is
    damaged."""
    try:
        value = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get(key, False)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'model_index.json'} cannot be read: {error}.") from error
    if not isinstance(value, bool):
        raise ModelError(f"{folder / 'model_index.json'}: {key} is {value!r}, not true or false.")
    return value


def carry(first_frame: np.ndarray, tracking_video: np.ndarray) -> np.ndarray:
    """Every frame as far as the first one tells.

    `first_frame` `[H, W, 3]` u8; `tracking_video` `[T, H, W, 3]` u8, black where there is no track.
    Returns `[T, H, W, 3]` u8, frame 0 the first frame itself. Raises ValueError when the sizes differ.
    """
    if first_frame.shape != tracking_video.shape[1:]:
        raise ValueError(f"sizes differ: first frame {first_frame.shape}, tracking video {tracking_video.shape}")
    source, first = planes(first_frame[None]), planes(tracking_video[:1])
    untracked = ~tracked_pixels(first)
    farthest, nearest = _depths_around(first)
    layers = depth_layers(source, first)
    behind = diffuse_or(source, source, untracked.float())
    result = [torch.from_numpy(np.array(first_frame))[None]]
    for start in range(1, len(tracking_video), FRAMES_AT_ONCE):
        tracking = planes(tracking_video[start:start + FRAMES_AT_ONCE])
        tracked, grid = tracked_pixels(tracking), positions(tracking)
        depth = tracking[:, 2:]
        fits = (depth >= _nearest_pixels(farthest, grid)) & (depth <= _nearest_pixels(nearest, grid))
        seen, kept = tracked & fits, ~tracked & untracked
        carried = look_up(source, grid)
        share = diffuse(kept.float(), (tracked | kept).float())
        around = share * behind + (1 - share) * diffuse_or(behind, carried, seen.float())
        carried = torch.where(seen, carried, torch.where(tracked, look_up_layers(layers, grid, depth), around))
        carried = torch.where(kept, source, carried)
        result.append(carried.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(result).numpy()


def look_up(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Bilinear samples `[N, C, H, W]` of `images` `[1 or N, C, h, w]` at `grid` `[N, H, W, 2]`, -1…1 from edge to edge;
    edges held."""
    return functional.grid_sample(images.expand(len(grid), -1, -1, -1), grid, padding_mode="border",
                                  align_corners=False)


def depth_layers(first_frame: torch.Tensor, tracking: torch.Tensor) -> torch.Tensor:
    """`[layers, 3, H, W]`: the first frame as its surfaces at each depth would continue behind nearer ones.

    `first_frame`, `tracking` `[1, 3, H, W]` f32, the latter the first tracking frame, 0…255.
    """
    levels = torch.arange(0.0, 256, DEPTH_STEP).view(-1, 1, 1, 1)
    weights = torch.exp(-(tracking[:, 2:] - levels).square() / (2 * DEPTH_WIDTH**2)) * tracked_pixels(tracking)
    return diffuse(first_frame, torch.where(weights < 0.05, 0.0, weights))


def look_up_layers(layers: torch.Tensor, grid: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Samples `[N, 3, H, W]` of `depth_layers` at `grid` `[N, H, W, 2]` and `depth` `[N, 1, H, W]`, 0…255; linear in
    all three directions."""
    volume = layers.transpose(0, 1)[None].expand(len(grid), -1, -1, -1, -1)
    level = (2 * depth[:, 0] / DEPTH_STEP + 1) / len(layers) - 1
    points = torch.cat([grid, level[..., None]], -1)[:, None]
    return functional.grid_sample(volume, points, padding_mode="border", align_corners=False)[:, :, 0]


def diffuse(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Spread `values` `[1 or N, C, H, W]` from the known pixels smoothly over the others (pull-push): `[N, C, H, W]`.

    `known` `[N, 1, H, W]` f32, 1 or a weight below it. Zero everywhere when nothing is known.
    Source: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    pyramid = [(values * known, known)]
    while max(pyramid[-1][1].shape[2:]) > 1:
        sums, weights = (_halve(part) for part in pyramid[-1])
        excess = weights.clamp(min=1)  # a pixel known several times counts once
        pyramid.append((sums / excess, weights / excess))
    sums, weights = pyramid[-1]
    filled = sums / weights.clamp(min=1e-6)
    for sums, weights in reversed(pyramid[:-1]):
        height, width = weights.shape[2:]
        filled = functional.interpolate(filled, scale_factor=2, mode="bilinear")[:, :, :height, :width]
        filled = sums + (1 - weights) * filled
    return filled


def diffuse_or(otherwise: torch.Tensor, values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """`diffuse`, but `otherwise` `[1, C, H, W]` in the frames where nothing is known."""
    return torch.where(known.flatten(1).any(1).view(-1, 1, 1, 1), diffuse(values, known), otherwise)


def _halve(image: torch.Tensor) -> torch.Tensor:
    """Sums of 2x2 pixels, an odd edge padded with nothing."""
    height, width = image.shape[2:]
    return 4 * functional.avg_pool2d(functional.pad(image, (0, width % 2, 0, height % 2)), 2)


def planes(frames: np.ndarray) -> torch.Tensor:
    """u8 `[N, H, W, 3]` to f32 `[N, 3, H, W]`, 0…255."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float().contiguous()


def tracked_pixels(tracking: torch.Tensor) -> torch.Tensor:
    return (tracking > 0).any(1, keepdim=True)


def positions(tracking: torch.Tensor) -> torch.Tensor:
    """Red and green as grid positions `[N, H, W, 2]`, -1…1."""
    return (tracking[:, :2] * (2 / 255) - 1).permute(0, 2, 3, 1)


def _nearest_pixels(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(image.expand(len(grid), -1, -1, -1), grid, mode="nearest", padding_mode="border",
                                  align_corners=False)


def _depths_around(tracking: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and largest inverse depth `[1, 1, H, W]` of the 3x3 pixels around, widened; untracked ones count for
    neither, so that nothing fits where all are untracked."""
    depth, tracked = tracking[:, 2:], tracked_pixels(tracking)
    low = -functional.max_pool2d(-torch.where(tracked, depth, 1000.0), 3, 1, 1)
    high = functional.max_pool2d(torch.where(tracked, depth, -1000.0), 3, 1, 1)
    return low - DEPTH_TOLERANCE, high + DEPTH_TOLERANCE
