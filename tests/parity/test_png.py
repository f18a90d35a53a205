# SPDX-License-Identifier: GPL-3.0-or-later
"""Our PNG beside Pillow's, both ways, in all kinds of images that both know."""

import io

import numpy as np
import pytest
from PIL import Image

from das_blender_addon.errors import ProtocolError
from das_blender_addon.protocol.png import decode_png, encode_png

SIZES = [(1, 1), (5, 300), (64, 48), (121, 97)]


def picture(height, width, noise=4):
    rng = np.random.default_rng(height)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=-1)
    return (smooth + rng.integers(-noise, noise + 1, smooth.shape)).clip(0, 255).astype(np.uint8)


def pillow_file(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pillow_reads_what_we_write(size):
    frame = picture(*size)
    image = Image.open(io.BytesIO(encode_png(frame)))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), frame)
    with_alpha = np.concatenate([frame, frame[..., ::-1][..., :1]], axis=2)
    image = Image.open(io.BytesIO(encode_png(with_alpha)))
    assert image.mode == "RGBA" and np.array_equal(np.asarray(image), with_alpha)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 0}, {"dpi": (72, 72)}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_we_read_what_pillow_writes(size, mode, options):
    image = Image.fromarray(picture(*size)).convert(mode)
    assert np.array_equal(decode_png(pillow_file(image, **options)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_black_as_pillow_does(mode):
    image = Image.fromarray(picture(40, 50)).convert(mode)
    image.putalpha(Image.fromarray(picture(40, 50, 90)[..., 2]))
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    expected = np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))
    difference = np.abs(decode_png(pillow_file(image)).astype(int) - expected)
    assert difference.max() <= 1  # Pillow rounds its compositing differently


def test_palette_of_few_colours_is_refused_or_read_right():
    """Pillow packs two colours into one bit per pixel, which is not read."""
    image = Image.fromarray((picture(8, 8)[..., 0] > 100).astype(np.uint8) * 255).convert("1")
    with pytest.raises(ProtocolError, match="1 bits per channel"):
        decode_png(pillow_file(image))


def test_our_file_is_not_much_larger_than_pillows():
    frame = picture(480, 720)
    assert len(encode_png(frame)) < 1.3 * len(pillow_file(Image.fromarray(frame)))
