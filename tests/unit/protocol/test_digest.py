# SPDX-License-Identifier: GPL-3.0-or-later
"""A SHA-256 that is computed beside whoever moves the pieces."""

from __future__ import annotations

import hashlib
import random

import pytest

from das_blender_addon.protocol.digest import SMALL_BYTES, Digests


@pytest.mark.parametrize("sizes", [[], [0], [1], [SMALL_BYTES], [SMALL_BYTES + 1] * 3, [5, SMALL_BYTES * 4, 0, 7]])
def test_digest_of_pieces_is_that_of_the_whole(sizes):
    pieces = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    copied = bytearray(sum(sizes))
    digests = Digests()
    digest, start = digests.begin(), 0
    for piece in pieces:
        digest.update(memoryview(piece), memoryview(copied)[start : start + len(piece)])
        start += len(piece)
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert copied == b"".join(pieces)
    digests.close()


def test_digests_do_not_mix():
    digests = Digests()
    one, other = digests.begin(), digests.begin()
    for _ in range(20):
        one.update(b"a" * (SMALL_BYTES + 1))
        other.update(b"b" * (SMALL_BYTES + 2))
    assert one.hexdigest() == hashlib.sha256(b"a" * (20 * (SMALL_BYTES + 1))).hexdigest()
    assert other.hexdigest() == hashlib.sha256(b"b" * (20 * (SMALL_BYTES + 2))).hexdigest()
    digests.close()
    digests.close()


def test_what_cannot_be_copied_is_told():
    digests = Digests()
    digest = digests.begin()
    digest.update(b"a" * (SMALL_BYTES + 1), memoryview(bytearray(3)))
    with pytest.raises(ValueError):
        digest.hexdigest()
    digests.close()
