# SPDX-License-Identifier: GPL-3.0-or-later
"""The border between pixels and latents: pictures of every kind."""

import numpy as np
import pytest
from PIL import Image

from das_server.pipeline.checks import image_to_frame

RAMP = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
COLOURS = np.stack([RAMP, RAMP.T.reshape(48, 64), 255 - RAMP], axis=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "F", "I"])
def test_picture_of_any_mode_and_size_becomes_a_frame(mode):
    frame = image_to_frame(Image.fromarray(COLOURS).convert(mode), 32, 16)
    assert frame.shape == (1, 16, 32, 3) and frame.dtype == np.uint8
    assert np.ptp(frame) > 100


def test_picture_of_the_right_size_is_kept_to_the_bit():
    assert np.array_equal(image_to_frame(Image.fromarray(COLOURS), 64, 48)[0], COLOURS)


def test_palette_is_filtered_like_the_colours_it_stands_for():
    palette = Image.fromarray(COLOURS).quantize(64)
    assert np.array_equal(image_to_frame(palette, 30, 20), image_to_frame(palette.convert("RGB"), 30, 20))


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", "<u2"), ("I;16B", ">u2")])
def test_deep_grey_keeps_its_whole_range(mode, dtype):
    deep = Image.frombytes(mode, (64, 48), (RAMP.astype(dtype) * np.array(257, dtype)).astype(dtype).tobytes())
    assert np.array_equal(image_to_frame(deep, 64, 48)[0], np.stack([RAMP] * 3, axis=2))
