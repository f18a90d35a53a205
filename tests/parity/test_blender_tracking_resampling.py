# SPDX-License-Identifier: GPL-3.0-or-later
"""Our Lanczos-3 against Pillow's, bit by bit."""

import numpy as np
import pytest
from PIL import Image

from das_blender_addon.tracking.resampling import resize_lanczos

CASES = {
    "wider, cut above and below": ((48, 72), (0.0, 3.75, 72.0, 44.25), (192, 108)),
    "taller, cut left and right": ((48, 72), (22.5, 0.0, 49.5, 48.0), (54, 96)),
    "same size": ((48, 72), (0.0, 0.0, 72.0, 48.0), (72, 48)),
    "same size, moved by a fraction": ((48, 72), (0.25, 0.5, 72.0, 48.0), (72, 48)),
    "smaller": ((48, 72), (5.25, 0.0, 60.125, 48.0), (20, 15)),
    "one axis only": ((48, 72), (0.0, 0.0, 72.0, 48.0), (100, 48)),
    "tiny picture": ((3, 2), (0.0, 0.0, 2.0, 3.0), (9, 11)),
    "to one pixel": ((30, 20), (1.5, 1.5, 19.0, 30.0), (1, 1)),
    "full size": ((480, 720), (0.0, 37.5, 720.0, 442.5), (1920, 1080)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["noise", "black and white"])
def test_resize_lanczos_equals_pillow(name, kind):
    (height, width), box, size = CASES[name]
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "black and white":
        frame = (frame > 127).astype(np.uint8) * np.uint8(255)  # overshoots at every edge

    expected = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, box=box))

    np.testing.assert_array_equal(resize_lanczos(frame, box, size), expected)
