# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a surface point lay in the first frame → its colour: red and green are x and y, blue is inverse depth.

    R = x / width,  G = y / height (0 at the top),  B = (1/depth − low) / (high − low), clipped to 0…1

``low`` and ``high`` are the 2nd and 98th percentile of 1/depth over the first frame's visible pixels, so near is bright
and a few extreme pixels do not flatten the rest.  Depth is the distance along the view axis, as depth estimators and
trackers give it, not the distance to the camera's centre.

The sky, where it is tracked, is infinitely far away: its 1/depth is 0, below ``low`` of any surface, and so its blue is
clipped to 0.  Its pixels do not count for the percentiles: surfaces have the same colours with and without it.
"""

from __future__ import annotations

import numpy as np

#: Percentiles of the first frame's inverse depth that become blue 0 and 255.
BLUE_PERCENTILES = (2.0, 98.0)


def inverse_depth_range(depth: np.ndarray) -> tuple[float, float]:
    """The ends of the blue channel, 1/Blender units, from the ``depth`` [P] f64 > 0 of the first frame's pixels."""
    low, high = np.percentile(1.0 / depth, BLUE_PERCENTILES)
    return float(low), float(high)


def tracking_colours(
    xy: np.ndarray,
    depth: np.ndarray,
    width: int,
    height: int,
    depth_range: tuple[float, float],
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Colours [P,3] u8 of points by their place in the first frame, black for points that lay outside of it.

    ``xy`` [P,2] f64: pixels in the first frame, NaN behind its camera; ``depth`` [P] f64, Blender units;
    ``depth_range`` as `inverse_depth_range` gives it; where both ends are equal (a flat wall) blue is 255
    from there on nearer.  ``inside`` [P] bool: `in_first_frame`, where it is known.
    """
    low, high = depth_range
    inside = in_first_frame(xy, width, height) if inside is None else inside
    outside = np.flatnonzero(~inside)
    with np.errstate(divide="ignore"):
        nearness = 1.0 / depth
    if high > low:
        nearness -= low
        nearness /= high - low
        np.maximum(nearness, 0.0, out=nearness)
        np.minimum(nearness, 1.0, out=nearness)
    else:
        nearness = (nearness >= low).astype(np.float64)
    colours = np.empty((len(xy), 3), np.uint8)
    for channel, share in enumerate((xy[:, 0] / width, xy[:, 1] / height, nearness)):
        share[outside] = 0.0
        share *= 255.0
        colours[:, channel] = np.rint(share, out=share)
    return colours


def in_first_frame(xy: np.ndarray, width: int, height: int) -> np.ndarray:
    """[P] bool: ``xy`` [P,2] (pixels, NaN = behind the camera) lies inside the picture, its border included."""
    with np.errstate(invalid="ignore"):
        inside = xy[:, 0] >= 0.0
        for axis, end in ((0, width), (1, height)):
            inside &= xy[:, axis] <= end
        inside &= xy[:, 1] >= 0.0
    return inside
