# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition from one first frame at the model's size, for measuring a model: the first frame's own pixels where it
saw the surface, the model's where it did not.  What users get is composed on their side, from several key pictures and
at the render's size (`das_blender_addon/tracking/composition.py`).

The exporter knows for every pixel which point of the first frame it shows. Where that point was visible then, its
colour is looked up there; the model paints the rest (disocclusions, surfaces that enter, the background). Four steps,
each kept because it measured better, make the two agree: a surface that something hid in the first frame takes part of
its colour from the first frame's nearest pixels at its own depth; near a seam the painted colours are moved half-way
towards the carried ones; background that stays background keeps the first frame's pixel where the model paints about
the same; and where a surface of the first frame has given way to what has no track, the surroundings are continued in
the same manner, which clears the ghosts that the model leaves there. Never applied to the full model.
"""

import numpy as np
import torch
from torch.nn import functional

from das_server.pipeline.cogvideox.carry import (
    FRAMES_AT_ONCE,
    depth_layers,
    diffuse,
    diffuse_or,
    look_up,
    look_up_layers,
    planes,
    positions,
    tracked_pixels,
)

HIDDEN_SHARE = 0.8
"""How much of a hidden surface's colour comes from the first frame around it; the model gives the rest."""
SEAM_STRENGTH = 0.5
"""How far painted colours at a seam move towards the carried ones. All of it is worse: it smears objects into holes."""
SEAM_FALLOFF_PX = 3.0
"""Distance from the seam, in pixels, over which that correction falls to 1/e."""
BACKGROUND_DEVIATION = 40.0
"""How far, in 8-bit levels, the model may differ from the background expected before it is believed instead."""
BACKGROUND_BLUR_PX = 2
"""Radius in pixels of the box over which that difference is averaged."""


def compose(model_frames: np.ndarray, first_frame: np.ndarray, first_frame_xy: np.ndarray,
            first_frame_visible: np.ndarray, *, tracking_video: np.ndarray | None = None, feather_px: float = 1.0,
            match_seams: bool = True, keep_background: bool = True) -> np.ndarray:
    """Carry the first frame along the tracks and let the model paint the holes.

    `model_frames` `[T, H, W, 3]` u8; `first_frame` `[H, W, 3]` u8; `first_frame_xy` `[T, H, W, 2]` f32 pixels (centres
    at +0.5), NaN where there is none; `first_frame_visible` `[T, H, W]` bool, the point was seen in the first frame.
    `tracking_video` `[T, H, W, 3]` u8, when given, tells where hidden surfaces lie and how deep, and where there is
    none. `feather_px` is the width of the blend inside the carried area; `match_seams` and `keep_background` (the last
    two) switch the steps described above.
    Returns `[T, H, W, 3]` u8. Raises ValueError when the shapes differ.
    """
    frames, height, width, _ = model_frames.shape
    if first_frame.shape != (height, width, 3) or first_frame_xy.shape != (frames, height, width, 2) \
            or first_frame_visible.shape != (frames, height, width) \
            or (tracking_video is not None and tracking_video.shape != model_frames.shape):
        tracking = None if tracking_video is None else tracking_video.shape
        raise ValueError(f"shapes differ: frames {model_frames.shape}, first frame {first_frame.shape}, positions "
                         f"{first_frame_xy.shape}, visibility {first_frame_visible.shape}, tracking video {tracking}")
    source = planes(first_frame[None])
    shown = torch.from_numpy(first_frame_visible & np.isfinite(first_frame_xy).all(-1))[:, None]
    grid = first_frame_grid(first_frame_xy)
    tracks = None if tracking_video is None else _Tracks(source, planes(tracking_video[:1]), shown[:1])
    result = np.empty_like(model_frames)
    for start in range(0, frames, FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        known, painted = shown[part], planes(model_frames[part])
        carried = look_up(source, grid[part])
        tracking = None if tracks is None else planes(tracking_video[part])
        if tracks is not None:
            hidden = ~known & tracked_pixels(tracking)
            around = look_up_layers(tracks.layers, positions(tracking), tracking[:, 2:])
            painted = torch.where(hidden, torch.lerp(painted, around, HIDDEN_SHARE), painted)
        matched = painted
        if match_seams:
            correction = SEAM_STRENGTH * nearness(known, SEAM_FALLOFF_PX)
            matched = painted + correction * diffuse(carried - painted, known.float())
        if keep_background:
            matched = torch.lerp(matched, source, _agreement(painted, source, ~shown[:1] & ~known))
        if keep_background and tracks is not None:
            bare = ~known & ~tracked_pixels(tracking)
            uncovered = bare & ~tracks.background
            expected = surroundings(carried, known, tracks.behind, bare & tracks.background, uncovered)
            matched = torch.lerp(matched, expected, _agreement(painted, expected, uncovered))
        frame = torch.lerp(matched, carried, feathered(known, feather_px))
        result[part] = frame.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return result


class _Tracks:
    """What the first tracking frame tells: the first frame's depth layers, where its background is, and how it goes on
    behind the surfaces."""

    def __init__(self, source: torch.Tensor, tracking: torch.Tensor, shown: torch.Tensor):
        self.layers = depth_layers(source, tracking)
        self.background = ~(shown | tracked_pixels(tracking))
        inner = _box(self.background.float(), 1) > 8.5  # pixels at its edge also show what is before it
        self.behind = diffuse(source, (inner if inner.any() else self.background).float())


def first_frame_grid(xy: np.ndarray) -> torch.Tensor:
    """`[T, H, W, 2]` f32 pixels of the first frame as a grid for `look_up`; what is not finite becomes the corner."""
    height, width = xy.shape[1:3]
    size = torch.tensor([width, height], dtype=torch.float32)
    return torch.from_numpy(np.nan_to_num(xy, nan=0.0, posinf=0.0, neginf=0.0)).float() * 2 / size - 1


def nearness(known: torch.Tensor, falloff_px: float) -> torch.Tensor:
    """`[N, 1, H, W]`: 1 on `known` pixels, falling by 1/e every `falloff_px` (chessboard), 0 beyond 4 of them."""
    near = known.float()
    step = float(np.exp(-1 / falloff_px))
    for _ in range(int(4 * falloff_px)):
        near = torch.maximum(near, step * functional.max_pool2d(near, 3, 1, 1))
    return near


def surroundings(carried: torch.Tensor, known: torch.Tensor, behind: torch.Tensor, kept: torch.Tensor,
                 uncovered: torch.Tensor) -> torch.Tensor:
    """`[N, 3, H, W]`: what is around the `uncovered` pixels, continued into them.

    `carried` are colours along the tracks, of the `known` pixels; `behind` `[1, 3, H, W]` the background of the first
    frame, continued behind its surfaces; `kept` is background then and now. A pixel among background gets what lies
    behind it, one among surfaces their carried colours, one between the two both.
    """
    share = diffuse(kept.float(), (~uncovered).float())
    return share * behind + (1 - share) * diffuse_or(behind, carried, known.float())


def _agreement(painted: torch.Tensor, expected: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """`[N, 1, H, W]` in [0, 1], 0 outside `where`: how well the painting agrees with `expected` there."""
    inside = where.float()
    square = (painted - expected).square().mean(1, keepdim=True) * inside
    mean = _box(square, BACKGROUND_BLUR_PX) / _box(inside, BACKGROUND_BLUR_PX).clamp(min=1e-6)
    return torch.exp(-mean / (2 * BACKGROUND_DEVIATION**2)) * inside


def feathered(mask: torch.Tensor, feather_px: float) -> torch.Tensor:
    """`mask` `[N, 1, H, W]` bool as weights that fall to one half at its edge, within `feather_px` inside the mask."""
    weight = mask.float()
    if feather_px <= 0:
        return weight
    reach = max(1, int(np.ceil(feather_px)))
    share = _box(weight, reach) / (2 * reach + 1) ** 2
    return weight * (share + 0.5 / (2 * reach + 1)).clamp(0.5, 1)


def _box(image: torch.Tensor, reach: int) -> torch.Tensor:
    """Sums of `[N, 1, H, W]` over squares of `2 reach + 1` pixels, edges repeated."""
    padded = functional.pad(image, (reach,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * reach + 1, 1) * (2 * reach + 1) ** 2
