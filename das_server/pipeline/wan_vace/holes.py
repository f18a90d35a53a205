# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model is told of holes: which pixels are grey in the video that it completes, and which latents it makes anew.

A latent holds one frame or four (`models.wan_vace.FRAMES_PER_LATENT`).  The published pipeline takes the mask of one of
them, by the nearest frame, which may even be one of the latent beside it: a hole that is open in another of the four
would count as known.  Here a latent's mask has the holes of all of its frames.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from ...models.wan_vace import FRAMES_PER_LATENT, STRIDE

GROWN_PIXELS = 3
"""By how much holes are larger than what no key picture shows: carried colours are mixed at their borders."""


def grow(holes: np.ndarray) -> torch.Tensor:
    """[T,H,W] bool, holes → the same, `GROWN_PIXELS` larger on every side."""
    pixels = torch.from_numpy(np.ascontiguousarray(holes))[:, None].float()
    return functional.max_pool2d(pixels, 2 * GROWN_PIXELS + 1, stride=1, padding=GROWN_PIXELS)[:, 0] > 0


def unite(holes: torch.Tensor) -> torch.Tensor:
    """[T,H,W] bool → [F,H,W] bool: per latent, the holes of all frames that it holds; the first one holds one."""
    groups = holes[1:].unflatten(0, (-1, FRAMES_PER_LATENT)).any(1)
    return torch.cat([holes[:1], groups])


def hidden_pixels(grown: torch.Tensor) -> torch.Tensor:
    """[T,H,W] bool, holes as `grow` gives them → [T,H,W] bool, the pixels that are grey for the model: of a frame with
    holes, those of all frames of its latent.  A frame without any, as a key picture is, stays whole.
    """
    united = unite(grown)
    of_frame = torch.cat([united[:1], united[1:].repeat_interleave(FRAMES_PER_LATENT, 0)])
    return of_frame & grown.flatten(1).any(1)[:, None, None]


def latent_mask(grown: torch.Tensor) -> torch.Tensor:
    """[T,H,W] bool, holes as `grow` gives them → [`STRIDE`²,F,h,w] f32, 1 for what is to be made: a channel for each
    pixel of a latent, row by row."""
    frames, height, width = unite(grown).shape
    pixels = unite(grown).reshape(frames, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return pixels.permute(2, 4, 0, 1, 3).flatten(0, 1).float()
