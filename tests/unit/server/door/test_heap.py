# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of pieces that come and go, on both sides."""

import platform
import subprocess
import sys

import pytest

ROUNDS, PIECES, PIECE_PAGES = 50, 4, 256

PROGRAM = f"""
import mmap, resource, sys
from importlib import import_module
import_module(sys.argv[1]).keep_freed_memory()
def pieces():
    for piece in [bytearray({PIECE_PAGES} * mmap.PAGESIZE) for _ in range({PIECES})]:
        for at in range(0, len(piece), mmap.PAGESIZE):
            piece[at] = 1
pieces()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    pieces()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's allocator")
@pytest.mark.parametrize("side", ["das_server.door.heap", "das_blender_addon.client.memory"])
def test_pieces_take_the_memory_of_those_before_them(side):
    ran = subprocess.run([sys.executable, "-c", PROGRAM, side], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < ROUNDS * PIECES * PIECE_PAGES / 100
