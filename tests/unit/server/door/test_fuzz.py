# SPDX-License-Identifier: GPL-3.0-or-later
"""The decoders under bytes that nobody made: a few seconds of what `tests/support/fuzz_guided.py` does for hours."""

import random

import pytest

from tests.support.fuzz import TARGETS, fuzz_one, seeds

ROUNDS = 8000


def changed(data: bytes, dice: random.Random) -> bytes:
    """``data`` with one to four changes: a bit, a byte, a piece left out, doubled, or of another place."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, size = dice.randrange(len(out) + 1), dice.choice((1, 1, 2, 4, 8, 64))
        piece = dice.choice((b"", bytes(size), b"\xff" * size, dice.randbytes(size), out[at : at + size] * 2))
        out[at : at + dice.choice((0, size))] = piece
        if out:
            out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def test_seeds_reach_every_target_and_are_understood():
    assert {seed[0] % len(TARGETS) for seed in seeds()} == set(range(len(TARGETS)))
    for seed in seeds():
        fuzz_one(seed)


@pytest.mark.parametrize("number", range(5))
def test_decoders_give_a_value_or_an_error_of_the_tree(number):
    dice, known = random.Random(number), seeds()
    for _ in range(ROUNDS):
        data = changed(dice.choice(known), dice)
        try:
            fuzz_one(data)
        except Exception as error:
            raise AssertionError(f"{data!r} is answered by {type(error).__name__}") from error


@pytest.mark.parametrize("data", [b"\3\x9d\x0c\xff\0\1\n"], ids=["an empty array that numpy cannot have"])
def test_bytes_that_were_too_much_once(data):
    fuzz_one(data)
