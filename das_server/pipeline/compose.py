# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition of the preview: the first frame's own pixels where it saw the surface, the model's where it did not.

The exporter knows for every pixel which point of the first frame it shows. Where that point was visible then, its
colour is looked up there; the model paints the rest (disocclusions, surfaces that enter, the background). Four steps,
each kept because it measured better, make the two agree: a surface that something hid in the first frame takes part of
its colour from the first frame's nearest pixels at its own depth; near a seam the painted colours are moved half-way
towards the carried ones; background that stays background keeps the first frame's pixel where the model paints about
the same; and where a surface of the first frame has given way to what has no track, the surroundings are continued in
the same manner, which clears the ghosts that the model leaves there. Never applied to the full model.
"""

import numpy as np

HIDDEN_SHARE = 0.8
"""How much of a hidden surface's colour comes from the first frame around it; the model gives the rest."""
DEPTH_STEP, DEPTH_WIDTH = 16, 10.0
"""Distance between depth layers and the Gaussian width of one, in 8-bit levels of the tracking video's blue."""
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
            or first_frame_visible.shape != (frames, height, width):
        raise ValueError(f"shapes differ: frames {model_frames.shape}, first frame {first_frame.shape}, positions "
                         f"{first_frame_xy.shape}, visibility {first_frame_visible.shape}")
    source = first_frame.astype(np.float32)
    shown = first_frame_visible & np.isfinite(first_frame_xy).all(-1)
    if tracking_video is not None:
        tracked = tracking_video.any(-1)
        layers = depth_layers(source, tracking_video[0], shown[0])
        background = ~(shown[0] | tracked[0])
        inner = _box(background.astype(np.float32), 1) > 8.5  # pixels at its edge also show what is before it
        behind = diffuse(source, inner if inner.any() else background)
    result = np.empty_like(model_frames)
    for t in range(frames):
        known = shown[t]
        carried = look_up(source, np.where(known[..., None], first_frame_xy[t], 0))
        painted = model_frames[t].astype(np.float32)
        if tracking_video is not None:
            hidden = ~known & tracked[t]
            around = look_up_layers(layers, tracking_video[t][hidden])
            painted[hidden] += HIDDEN_SHARE * (around - painted[hidden])
        if match_seams:
            correction = SEAM_STRENGTH * nearness(known, SEAM_FALLOFF_PX)[..., None]
            matched = painted + correction * diffuse(carried - painted, known)
        else:
            matched = painted
        if keep_background:
            weight = _agreement(painted, source, ~shown[0] & ~known)[..., None]
            matched = weight * source + (1 - weight) * matched
        if keep_background and tracking_video is not None:
            bare = ~known & ~tracked[t]
            expected = surroundings(carried, known, behind, bare & background, bare & ~background)
            weight = _agreement(painted, expected, bare & ~background)[..., None]
            matched = weight * expected + (1 - weight) * matched
        weight = feathered(known, feather_px)[..., None]
        result[t] = np.clip(np.round(weight * carried + (1 - weight) * matched), 0, 255).astype(np.uint8)
    return result


def look_up(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Bilinear samples of `image` `[H, W, C]` f32 at `xy` `[..., 2]` pixels, edges held."""
    height, width, _ = image.shape
    x = np.clip(xy[..., 0] - 0.5, 0, width - 1)
    y = np.clip(xy[..., 1] - 0.5, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[..., None].astype(np.float32), (y - y0)[..., None].astype(np.float32)
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def depth_layers(first_frame: np.ndarray, tracking: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`[layers, H, W, 3]` f32: the first frame as its surfaces at each depth would continue behind nearer ones.

    `first_frame` `[H, W, 3]` f32; `tracking` `[H, W, 3]` u8, its blue the normalised inverse depth; `known` `[H, W]`.
    """
    depth = tracking[..., 2].astype(np.float32)
    layers = []
    for level in range(0, 256, DEPTH_STEP):
        weights = np.exp(-((depth - level) ** 2) / (2 * DEPTH_WIDTH**2)) * known
        layers.append(diffuse(first_frame, np.where(weights < 0.05, 0, weights).astype(np.float32)))
    return np.stack(layers)


def look_up_layers(layers: np.ndarray, tracking: np.ndarray) -> np.ndarray:
    """`[P, 3]` f32 colours of `depth_layers` at `tracking` `[P, 3]` u8: position in red and green, depth in blue."""
    count, height, width, _ = layers.shape
    values = tracking.astype(np.float32)
    xy = values[:, :2] * np.array([width / 255, height / 255], np.float32)
    level = values[:, 2] / DEPTH_STEP
    below = np.minimum(np.floor(level).astype(np.intp), count - 1)
    above = np.minimum(below + 1, count - 1)
    share = (level - below)[:, None]
    result = np.zeros((len(values), 3), np.float32)
    for index in range(count):
        for chosen, weight in ((below == index, 1 - share), (above == index, share)):
            if chosen.any():
                result[chosen] += weight[chosen] * look_up(layers[index], xy[chosen])
    return result


def diffuse(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Spread `values` `[H, W, 3]` f32 from the `known` `[H, W]` pixels (bool, or weights up to 1) smoothly over the
    others (pull-push).

    Zero everywhere when nothing is known. Source: Gortler et al. 1996, The Lumigraph, section 3.4.
    """
    weights = known.astype(np.float32)
    pyramid = [(values * weights[..., None], weights)]
    while max(pyramid[-1][1].shape) > 2:
        sums, weights = pyramid[-1]
        sums, weights = _halve(sums), _halve(weights[..., None])[..., 0]
        excess = np.maximum(weights, 1)  # a pixel known several times counts once
        pyramid.append((sums / excess[..., None], weights / excess))
    sums, weights = pyramid[-1]
    filled = sums / np.maximum(weights, 1e-6)[..., None]
    for sums, weights in reversed(pyramid[:-1]):
        filled = sums + (1 - weights[..., None]) * _double(filled, weights.shape)
    return filled


def nearness(known: np.ndarray, falloff_px: float) -> np.ndarray:
    """`[H, W]` f32: 1 on `known` pixels, falling by 1/e every `falloff_px` (chessboard), 0 beyond 4 of them."""
    near = known.astype(np.float32)
    step = np.float32(np.exp(-1 / falloff_px))
    for _ in range(int(4 * falloff_px)):
        grown = np.pad(near, 1)
        grown = np.maximum(np.maximum(grown[:-2], grown[1:-1]), grown[2:])
        grown = np.maximum(np.maximum(grown[:, :-2], grown[:, 1:-1]), grown[:, 2:])
        near = np.maximum(near, step * grown)
    return near


def surroundings(carried: np.ndarray, known: np.ndarray, behind: np.ndarray, kept: np.ndarray,
                 uncovered: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` f32: what is around the `uncovered` pixels, continued into them.

    `carried` `[H, W, 3]` f32 colours along the tracks, of the `known` pixels; `behind` `[H, W, 3]` f32 the background
    of the first frame, continued behind its surfaces; `kept` `[H, W]` bool, background then and now. A pixel among
    background gets what lies behind it, one among surfaces their carried colours, one between the two both.
    """
    if not uncovered.any():
        return behind
    share = diffuse(kept[..., None].astype(np.float32), ~uncovered)
    return share * behind + (1 - share) * diffuse(carried, known)


def _agreement(painted: np.ndarray, expected: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`[H, W]` f32 in [0, 1], 0 outside `where` `[H, W]`: how well the painting agrees with `expected` there."""
    if not where.any():
        return np.zeros(where.shape, np.float32)
    inside = where.astype(np.float32)
    square = ((painted - expected) ** 2).mean(-1) * inside
    mean = _box(square, BACKGROUND_BLUR_PX) / np.maximum(_box(inside, BACKGROUND_BLUR_PX), 1e-6)
    return np.exp(-mean / (2 * BACKGROUND_DEVIATION**2)) * inside


def feathered(mask: np.ndarray, feather_px: float) -> np.ndarray:
    """`mask` `[H, W]` bool as f32 weights that fall to one half at its edge, within `feather_px` inside the mask."""
    weight = mask.astype(np.float32)
    if feather_px <= 0 or mask.all():
        return weight
    reach = max(1, int(np.ceil(feather_px)))
    share = _box(weight, reach) / (2 * reach + 1) ** 2
    return weight * np.clip(share + 0.5 / (2 * reach + 1), 0.5, 1)


def _box(image: np.ndarray, reach: int) -> np.ndarray:
    """Sums of `[H, W]` over squares of `2 reach + 1` pixels, edges repeated."""
    padded = np.pad(image, reach, mode="edge")
    size = 2 * reach + 1
    rows = sum(padded[k:k + image.shape[0]] for k in range(size))
    return sum(rows[:, k:k + image.shape[1]] for k in range(size))


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
