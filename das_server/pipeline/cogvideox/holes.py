# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that paint holes: where they are told of them, and how what they add comes onto the carried video.

Such a model is given, where others have the first tracking frame's latents, which pixels no key picture shows; and what
it makes is not the frames but their difference from the carried video, of which only the holes' is used.  A network
that knows nothing better leaves the carried video as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from das_blender_addon.errors import JobRejected, ModelError

from .carry import read_flag

PAINTS_HOLES = "paints_holes"
"""Key of a checkpoint's `model_index.json`: true for a model of this kind."""
FRAMES_PER_LATENT = 4
PARTS = 2
"""Of a latent's pixels, along each axis, whose share of holes is told by itself."""
HOLE_CHANNELS = FRAMES_PER_LATENT * PARTS * PARTS
LEVELS = 127.5
"""8-bit levels of difference that are 1 at the VAE; larger ones are cut off."""


def paints_holes(folder: Path) -> bool:
    """Whether the checkpoint in `folder` paints holes.  Raises `ModelError` where its `model_index.json` is damaged."""
    return read_flag(folder, PAINTS_HOLES)


def holes_for(holes: np.ndarray | None, tracking_video: np.ndarray, is_read: bool) -> np.ndarray | None:
    """The holes that a model is told of, all but the first frame where none are given; None for one that paints none.

    Raises `JobRejected` for holes that this model does not read, or that are none of the clip's.
    """
    if not is_read:
        if holes is not None:
            raise JobRejected("This model does not read holes: leave them out.", field="holes")
        return None
    if holes is None:
        holes = np.ones(tracking_video.shape[:3], bool)
        holes[0] = False
    if not isinstance(holes, np.ndarray) or holes.dtype != bool:
        raise JobRejected("The holes must be a bool array [T,H,W].", field="holes")
    if holes.shape != tracking_video.shape[:3]:
        raise JobRejected(
            f"The holes are {list(holes.shape)} and the tracking video {list(tracking_video.shape)}.", field="holes"
        )
    return holes


def pack_holes(holes: np.ndarray, channels: int, stride: int) -> torch.Tensor:
    """`holes` [T,H,W] bool → [F,channels,H/stride,W/stride] f32, 0…1: shares of holes, the channels left over 0.

    The first latent frame holds the first frame four times, each other one four frames.  Raises `ModelError` when a
    VAE of ``channels`` channels and ``stride`` pixels per latent has no room for them.
    """
    if channels < HOLE_CHANNELS or stride % PARTS:
        raise ModelError(
            f"A VAE of {channels} channels and {stride} pixels per latent cannot be told of holes: {HOLE_CHANNELS} "
            f"channels and a multiple of {PARTS} pixels are needed."
        )
    shares = torch.from_numpy(np.ascontiguousarray(holes)).float()[:, None]
    shares = functional.avg_pool2d(shares, stride // PARTS)
    shares = functional.pixel_unshuffle(shares, PARTS)  # [T,PARTS·PARTS,h,w]
    shares = torch.cat([shares[:1].expand(FRAMES_PER_LATENT - 1, -1, -1, -1), shares])
    packed = shares.reshape(-1, HOLE_CHANNELS, *shares.shape[2:])
    return functional.pad(packed, (0, 0, 0, 0, 0, channels - HOLE_CHANNELS))


def difference(frames: np.ndarray, carried: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """What a model of this kind should make: [T,H,W,3] f32, −1…1, 0 outside the `holes` [T,H,W] bool.

    `frames`, `carried` [T,H,W,3] u8.
    """
    found = (frames.astype(np.float32) - carried.astype(np.float32)) / LEVELS
    return np.where(holes[..., None], np.clip(found, -1.0, 1.0), np.float32(0.0))


def paint(carried: np.ndarray, holes: np.ndarray, made: np.ndarray) -> np.ndarray:
    """[T,H,W,3] u8: `carried` [T,H,W,3] u8 with the difference `made` [T,H,W,3] f32 in the `holes` [T,H,W] bool."""
    painted = np.clip(carried.astype(np.float32) + LEVELS * made, 0.0, 255.0)
    return np.where(holes[..., None], np.rint(painted).astype(np.uint8), carried)
