# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of a list and of a range: what is made, what is nearest, and what a peer of another release makes of them."""

import pytest

from das_blender_addon.protocol import codec
from das_blender_addon.protocol.messages import ModelCapability, SizeRange
from das_blender_addon.protocol.sizes import advice, makes_size, nearest_size, sizes_in_words
from tests.support.capabilities import model_capability

LIST = model_capability(sizes=[[96, 64], [64, 64]])
RANGE = model_capability(sizes=[[96, 64], [64, 64]], size_range=SizeRange(8, 48, 360, 240))


@pytest.mark.parametrize("size", [(200, 136), (360, 240), (240, 360), (48, 48), (360, 48), (48, 360), (240, 240)])
def test_range_holds_multiples_up_to_its_sides_upright_and_lying(size):
    assert makes_size(RANGE, *size) and not makes_size(LIST, *size)
    assert nearest_size(RANGE, *size) == size


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((201, 136), (200, 136)),
        ((196, 131), (200, 128)),
        ((368, 240), (360, 232)),
        ((1920, 1080), (360, 200)),
        ((1080, 1920), (200, 360)),
        ((720, 480), (360, 240)),
        ((248, 248), (240, 240)),
        ((40, 200), (48, 200)),
        ((8, 8), (48, 48)),
        ((10**400, 1), (360, 48)),
        ((0, -5), (48, 48)),
    ],
)
def test_other_sizes_are_refused_and_the_nearest_is_made(size, nearest):
    assert not makes_size(RANGE, *size)
    assert nearest_size(RANGE, *size) == nearest and makes_size(RANGE, *nearest)


def test_list_counts_beside_the_range():
    model = model_capability(sizes=[[720, 480]], size_range=SizeRange(8, 48, 360, 240))
    assert makes_size(model, 720, 480) and makes_size(model, 200, 136)
    assert nearest_size(model, 721, 480) == (360, 240)


def test_without_a_range_the_nearest_of_the_list_is_named():
    assert not makes_size(LIST, 96, 72) and makes_size(LIST, 96, 64)
    assert nearest_size(LIST, 96, 72) == (96, 64) and nearest_size(LIST, 60, 72) == (64, 64)
    assert advice(LIST, 60, 72) == "use one of 64×64, 96×64"
    assert advice(model_capability(sizes=[[720, 480]]), 60, 72) == "use 720×480"


def test_sides_that_are_no_multiples_themselves_are_kept():
    model = model_capability(size_range=SizeRange(multiple=16, smallest=50, longer=365, shorter=250))
    assert nearest_size(model, 1000, 1000) == (240, 240) and nearest_size(model, 1, 1) == (64, 64)
    assert nearest_size(model, 365, 250) == (352, 240)


@pytest.mark.parametrize(
    "nonsense", [(-8, 48, 360, 240), (8, 400, 360, 240), (8, 0, 0, 0), (8, -9, -9, -9), (2**62, 1, 5, 5)]
)
def test_range_that_holds_nothing_leaves_the_list(nonsense):
    model = model_capability(size_range=SizeRange(*nonsense))
    assert not makes_size(model, 200, 136) and not makes_size(model, 0, 0)
    assert nearest_size(model, 200, 136) == (96, 64)


def test_sizes_are_told_in_words():
    assert sizes_in_words(LIST) == "96×64, 64×64"
    assert sizes_in_words(RANGE) == "multiples of 8 from 48×48 to 360×240 or 240×360"
    square = model_capability(size_range=SizeRange(8, 64, 256, 256))
    assert sizes_in_words(square) == "multiples of 8 from 64×64 to 256×256"
    assert advice(RANGE, 201, 136) == (
        "use 200×136, the nearest, or other multiples of 8 from 48×48 to 360×240 or 240×360"
    )


def test_range_travels_and_what_says_none_has_none():
    plain = codec.to_plain(RANGE)
    assert codec.from_plain(ModelCapability, plain) == RANGE
    del plain["size_range"]
    older = codec.from_plain(ModelCapability, plain)
    assert older == LIST and older.size_range == SizeRange()
