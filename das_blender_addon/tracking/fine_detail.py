# SPDX-License-Identifier: GPL-3.0-or-later
"""The fine detail of key pictures over the light and tone of a model.

What a model makes is right in the large, and the key pictures are right in the small.  The frame is the model's, and of
its difference from what is composed of the key pictures that which is smaller than `SMALL` of the model's pixels.  So a
model's own small things are replaced, not doubled, and its tone stays.

The large part of the difference is that of each surface for itself.  At an outline the model's pixels show two surfaces
mixed: there it is not measured but continued from inside the surface, on a thin thing from its middle.  So an outline
is as sharp as the composed frame's, and no surface has the tone of the one beside it.

Measured with Cycles frames, shrunk to a third and coloured (surfaces and sky differently), for a model: an orbit of 40°
39.1 dB; with the difference blurred over outlines 34.1, where detail was left out beside outlines 35.1, the model's
frames enlarged 33.9.
"""

from __future__ import annotations

import math

import numpy as np

from .composition import Composed
from .correspondences import outlines
from .filling import large_parts

SMALL = 3.0
"""Size of what counts as detail, in pixels of the model."""
MIXED = 1.5
"""How far from an outline the model's pixels show both surfaces, in pixels of the model."""


def over_model(composed: Composed, inverse_depth: np.ndarray, model: np.ndarray, pixel: float) -> np.ndarray:
    """[H,W,3] u8: ``model`` [H,W,3] u8, enlarged, with the fine detail of ``composed``, u8, where keys show it.

    ``inverse_depth`` [H,W] f32: 1/Blender units, 0 for the sky.  ``pixel``: side of a pixel of the model in pixels.
    """
    base = model.astype(np.float32)
    difference = composed.picture.astype(np.float32) - base
    inside = _inside(composed.known, outlines(inverse_depth), max(1, math.ceil(MIXED * pixel)))
    large = large_parts(difference, inside, inverse_depth, max(2, round(SMALL * pixel)))
    # Towards a hole, which is the model's, detail fades.
    fading = np.clip(2.0 * _share_around(composed.known, max(1, round(pixel))) - 1.0, 0.0, 1.0)
    share = np.where(composed.known, fading, 0.0).astype(np.float32)[..., None]
    return np.rint(np.clip(base + share * (difference - large), 0.0, 255.0)).astype(np.uint8)


def _inside(known: np.ndarray, outline: np.ndarray, reach: int) -> np.ndarray:
    """[H,W] bool: ``known`` pixels farther than ``reach`` from every ``outline``; of what is thinner, its middle."""
    inside = farther = known & ~_widened(outline, reach)
    for distance in range(reach - 1, -1, -1):
        nearer, farther = farther, known & ~_widened(outline, distance)
        inside = inside | farther & ~_widened(nearer, 1)
    return inside


def _widened(mask: np.ndarray, reach: int) -> np.ndarray:
    return _share_around(mask, reach) > 0.0 if reach else mask


def _share_around(mask: np.ndarray, reach: int) -> np.ndarray:
    """[H,W] f32: which share of the pixels within ``reach`` is ``mask`` [H,W] bool; the border is repeated."""
    count = mask.astype(np.int32)
    width = 2 * reach + 1
    for _ in range(2):
        padded = np.pad(count, ((reach + 1, reach), (0, 0)), mode="edge")
        total = np.cumsum(padded, axis=0, dtype=np.int32)
        count = (total[width:] - total[:-width]).T
    return count.astype(np.float32) / np.float32(width * width)
