# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that grows piece by piece."""

import os
import sys
from pathlib import Path

import pytest

from das_server.store.appending import STRETCH_BYTES, append


@pytest.mark.parametrize("sizes", [[1], [0, 5], [STRETCH_BYTES - 1, 2], [STRETCH_BYTES * 2 + 3, STRETCH_BYTES, 7]])
def test_pieces_come_one_after_the_other(tmp_path, sizes):
    path, content = tmp_path / "file", b""
    for number, size in enumerate(sizes):
        piece = bytes([number + 1]) * size
        append(path, len(content), memoryview(piece))
        content += piece
    assert path.read_bytes() == content


def never_written_bytes() -> int:
    """What this process had written to files and took away again before it came to the disk."""
    words = Path("/proc/self/io").read_text().split()
    return int(words[words.index("cancelled_write_bytes:") + 1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what came to the disk")
def test_what_was_appended_comes_to_the_disk_before_the_end(tmp_path):
    path, piece = tmp_path / "file", memoryview(os.urandom(1 << 20))
    for offset in range(0, STRETCH_BYTES, len(piece)):
        append(path, offset, piece)
    before = never_written_bytes()
    path.unlink()
    assert never_written_bytes() - before < STRETCH_BYTES // 2
