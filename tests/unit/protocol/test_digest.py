# SPDX-License-Identifier: GPL-3.0-or-later
"""A SHA-256 that is computed beside whoever moves the pieces."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from das_blender_addon.protocol.digest import MOST_WAITING, SMALL_BYTES, Digests


@pytest.mark.parametrize("sizes", [[], [0], [1], [SMALL_BYTES], [SMALL_BYTES + 1] * 3, [5, SMALL_BYTES * 4, 0, 7]])
def test_digest_of_pieces_is_that_of_the_whole(sizes):
    pieces = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    digests = Digests()
    digest = digests.begin()
    for piece in pieces:
        digest.update(memoryview(piece))
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
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


def test_few_pieces_wait_in_memory():
    digests = Digests()
    digest = digests.begin()
    pieces = [bytearray(1 << 20) for _ in range(4 * MOST_WAITING)]
    for count, piece in enumerate(pieces, 1):
        digest.update(memoryview(piece))
        assert sum(map(is_held, pieces[:count])) <= MOST_WAITING
    assert digest.hexdigest() == hashlib.sha256(bytes(len(pieces) << 20)).hexdigest()
    digests.close()


def test_pieces_of_what_is_in_memory_anyhow_make_nobody_wait():
    goes_on, hashed = threading.Event(), []

    class Slow:
        def update(self, piece):
            goes_on.wait(20)
            hashed.append(len(piece))

    digests = Digests(None)
    digest = digests.begin()
    digest.running = Slow()
    for size in range(SMALL_BYTES + 1, SMALL_BYTES + 2 * MOST_WAITING):
        digest.update(bytes(size))
    assert not hashed  # and yet we are here
    goes_on.set()
    digests.close()
    assert hashed == [*range(SMALL_BYTES + 1, SMALL_BYTES + 2 * MOST_WAITING)]


def test_piece_that_cannot_be_hashed_fails_its_own_digest_only():
    digests = Digests()
    bad, good = digests.begin(), digests.begin()
    bad.update("no bytes" * SMALL_BYTES)
    good.update(bytes(1 << 20))
    with pytest.raises(TypeError):
        bad.hexdigest()
    with pytest.raises(TypeError):
        bad.update(b"more")
    assert good.hexdigest() == hashlib.sha256(bytes(1 << 20)).hexdigest()
    digests.close()


def test_thread_that_the_system_refuses_is_begun_the_next_time(monkeypatch):
    digests = Digests()
    digest, start = digests.begin(), threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no thread")))
    with pytest.raises(RuntimeError, match="no thread"):
        digest.update(bytes(1 << 20))
    monkeypatch.setattr(threading.Thread, "start", start)
    digest.update(bytes(1 << 20))
    assert digest.hexdigest() == hashlib.sha256(bytes(1 << 20)).hexdigest()
    digests.close()


def is_held(piece: bytearray) -> bool:
    """Whether somebody still reads it."""
    try:
        piece.append(0)
    except BufferError:
        return True
    piece.pop()
    return False
