# SPDX-License-Identifier: GPL-3.0-or-later
"""The automatic size is that of a first frame of the user's own, where the model makes it."""

import numpy as np
import pytest

from das_blender_addon.protocol.messages import SizeRange
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.picture_size import own_picture_size, png_size
from das_blender_addon.shot.pictures import ANYBODY, keep_rendered
from das_blender_addon.shot.plan import plan
from tests.support.capabilities import capabilities_of, model_capability

FAST = model_capability(sizes=[[96, 64], [192, 128]], is_fast=True, size_range=SizeRange(8, 48, 192, 128))


def planned(picture_size, model=FAST, **options):
    return plan(range(5), (96, 64), (1, 1), capabilities_of(model), picture_size=picture_size, **options)


def png(width: int, height: int, level: int = 0) -> bytes:
    return encode_png(np.full((height, width, 3), level, np.uint8))


def test_painted_picture_keeps_the_automatic_size_when_the_server_proves_fast():
    assert planned(None, large_if_fast=True).model_size == (192, 128)
    made = planned((96, 64), large_if_fast=True)
    assert made.model_size == (96, 64)
    assert any("96×64, the first frame's" in note for note in made.notes)
    assert not any("largest" in note for note in made.notes)


def test_picture_of_a_size_from_the_models_range_counts():
    assert planned((120, 80)).model_size == (120, 80)


def test_picture_of_a_size_that_the_model_does_not_make_decides_nothing():
    made = planned((100, 67), large_if_fast=True)
    assert made.model_size == (192, 128) and not any("first frame's" in note for note in made.notes)


def test_size_that_was_chosen_goes_before_the_pictures():
    assert planned((96, 64), size=(192, 128)).model_size == (192, 128)


def test_size_of_the_painted_picture_is_found(tmp_path):
    made = keep_rendered(tmp_path, 10, "a" * 64, png(96, 64), {})
    assert own_picture_size(tmp_path, 10, ANYBODY) is None  # a rendered one is rendered anew
    made.path.write_bytes(png(120, 80, level=9))
    assert own_picture_size(tmp_path, 10, ANYBODY) == (120, 80)
    assert own_picture_size(tmp_path, 11, ANYBODY) is None


def test_chosen_file_goes_before_the_painted_one(tmp_path):
    (tmp_path / "own.png").write_bytes(png(48, 56))
    assert own_picture_size(tmp_path, 10, ANYBODY, tmp_path / "own.png") == (48, 56)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"GIF89a" + bytes(40)])
def test_what_is_no_png_has_no_size(tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    assert png_size(tmp_path / "picture.png") is None and png_size(tmp_path / "none.png") is None
