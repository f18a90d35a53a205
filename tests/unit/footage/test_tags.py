# SPDX-License-Identifier: GPL-3.0-or-later
"""What a picture's file says besides its pixels; files are written by Pillow."""

import io

import numpy as np
import pytest

from das_blender_addon.footage.tags import PictureTags, tags_of, upright

pytest.importorskip("PIL", reason="Pillow, which writes the files, is in the server's environment only")
from PIL import Image, ImageOps  # noqa: E402

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def written(kind: str, orientation: int = 0, lens: int = 0, mode: str = "RGB") -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    if lens:
        exif.get_ifd(0x8769)[0xA405] = lens
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_and_lens_are_read(kind):
    assert tags_of(written(kind, 6, 28)) == PictureTags(6, 28.0)
    assert tags_of(written(kind, 1, 50)) == PictureTags(1, 50.0)
    assert tags_of(written(kind)) == PictureTags()


def test_orientation_of_a_tiff_is_read():
    """Pillow writes no lens into one."""
    assert tags_of(written("TIFF", 6)) == PictureTags(6) and tags_of(written("TIFF")) == PictureTags()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_as_pillow_turns_it(orientation):
    image = Image.open(io.BytesIO(written("PNG", orientation)))
    np.testing.assert_array_equal(upright(PIXELS, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_print_colours_are_noticed_and_damage_is_nothing():
    for kind in ("JPEG", "TIFF"):
        assert tags_of(written(kind, mode="CMYK")).is_print and not tags_of(written(kind)).is_print
    for kind in ("JPEG", "TIFF", "WEBP"):
        whole = written(kind, 6, 28)
        for end in range(2, min(len(whole), 400)):
            tags_of(whole[:end])
    assert tags_of(b"GIF89a") == PictureTags()
