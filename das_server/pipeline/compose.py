# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition of the preview: the first frame's own pixels where it saw the surface, the model's where it did not.

The exporter knows for every pixel which point of the first frame it shows. Where that point was visible then, its
colour is looked up there; the model paints the rest (disocclusions, surfaces that enter, the background), shifted so that
its colours meet those around each hole, and the seam is feathered. Never applied to the full model.
"""

import numpy as np

SEAM_LEVELS_STOP = 2
"""The hole-filling pyramid ends at this size, in pixels."""


def compose(model_frames: np.ndarray, first_frame: np.ndarray, first_frame_xy: np.ndarray,
            first_frame_visible: np.ndarray, *, feather_px: float = 1.0, match_seams: bool = True) -> np.ndarray:
    """Carry the first frame along the tracks and let the model paint the holes.

    `model_frames` `[T, H, W, 3]` u8; `first_frame` `[H, W, 3]` u8; `first_frame_xy` `[T, H, W, 2]` f32 pixels (centres
    at +0.5), NaN where there is no surface; `first_frame_visible` `[T, H, W]` bool, the point was seen in the first
    frame. `feather_px` is the width of the blend inside the carried area. Returns `[T, H, W, 3]` u8; frame 0 of a fully
    covered first frame is that frame. Raises ValueError when the shapes differ.
    """
    frames, height, width, _ = model_frames.shape
    if first_frame.shape != (height, width, 3) or first_frame_xy.shape != (frames, height, width, 2) \
            or first_frame_visible.shape != (frames, height, width):
        raise ValueError(f"shapes differ: frames {model_frames.shape}, first frame {first_frame.shape}, positions "
                         f"{first_frame_xy.shape}, visibility {first_frame_visible.shape}")
    source = first_frame.astype(np.float32)
    result = np.empty_like(model_frames)
    for t in range(frames):
        carried_here = first_frame_visible[t] & np.isfinite(first_frame_xy[t]).all(-1)
        carried = look_up(source, np.where(carried_here[..., None], first_frame_xy[t], 0))
        painted = model_frames[t].astype(np.float32)
        if match_seams:
            painted = painted + diffuse(carried - painted, carried_here)
        weight = _feathered(carried_here, feather_px)[..., None]
        blend = weight * carried + (1 - weight) * painted
        result[t] = np.clip(np.round(blend), 0, 255).astype(np.uint8)
    return result


def look_up(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear samples of `image` `[H, W, 3]` f32 at `xy` `[..., 2]` pixels, edges held."""
    height, width, _ = image.shape
    x = np.clip(xy[..., 0] - 0.5, 0, width - 1)
    y = np.clip(xy[..., 1] - 0.5, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[..., None].astype(np.float32), (y - y0)[..., None].astype(np.float32)
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def diffuse(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Spread `values` `[H, W, 3]` f32 from the `known` `[H, W]` bool pixels smoothly over the others (pull-push).

    Zero everywhere when nothing is known. Source: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    weights = known.astype(np.float32)
    pyramid = [(values * weights[..., None], weights)]
    while max(pyramid[-1][1].shape) > SEAM_LEVELS_STOP:
        sums, weights = pyramid[-1]
        sums, weights = _halve(sums), _halve(weights[..., None])[..., 0]
        excess = np.maximum(weights, 1)  # a pixel known several times counts once
        pyramid.append((sums / excess[..., None], weights / excess))
    sums, weights = pyramid[-1]
    filled = sums / np.maximum(weights, 1e-6)[..., None]
    for sums, weights in reversed(pyramid[:-1]):
        coarse = _double(filled, weights.shape)
        filled = sums + (1 - weights[..., None]) * coarse
    return filled


def _halve(image: np.ndarray) -> np.ndarray:
    """Sums of 2x2 pixels of `[H, W, C]`, an odd edge padded with nothing."""
    height, width, _ = image.shape
    image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)))
    return image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]


def _double(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`[h, w, C]` to `[*shape, C]`, bilinear between the centres of the coarse pixels."""
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    xy = np.stack(np.broadcast_arrays((columns + 0.5) / 2, ((rows + 0.5) / 2)[:, None]), -1)
    return look_up(image, xy)


def _feathered(mask: np.ndarray, feather_px: float) -> np.ndarray:
    """`mask` `[H, W]` bool as f32 weights that fall towards the hole inside the mask, never outside it."""
    weight = mask.astype(np.float32)
    if feather_px <= 0 or mask.all() or not mask.any():
        return weight
    reach = max(1, int(np.ceil(feather_px)))
    padded = np.pad(weight, reach, mode="edge")
    total = np.zeros_like(weight)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            total += padded[dy:dy + mask.shape[0], dx:dx + mask.shape[1]]
    share = total / (2 * reach + 1) ** 2
    return weight * np.clip(2 * share - 0.5, 0, 1) if feather_px >= 1 else weight * share
