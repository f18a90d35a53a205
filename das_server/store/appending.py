# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that grows piece by piece and comes to the disk meanwhile, so that little is left to wait for at its end."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

STRETCH_BYTES = 4 << 20
"""So much that was appended begins to be written to the disk together."""

_BEGIN = 2
"""SYNC_FILE_RANGE_WRITE of Linux (linux/fs.h): begin to write what is not yet being written, and wait for nothing."""


def append(path: Path, size_bytes: int, piece: memoryview) -> None:
    """Append to a file that has ``size_bytes``; where that fails, it has as many afterwards.  Raises `OSError`."""
    with open(path, "ab", buffering=0) as file:
        try:
            rest = piece
            while len(rest):
                rest = rest[file.write(rest) :]
        except OSError:
            os.truncate(path, size_bytes)
            raise
        begun, now = (end // STRETCH_BYTES * STRETCH_BYTES for end in (size_bytes, size_bytes + len(piece)))
        if now > begun:
            _begin_to_write(file.fileno(), begun, now - begun)


@functools.cache
def _sync_file_range() -> Callable[..., int] | None:
    """``sync_file_range``, None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


def _begin_to_write(descriptor: int, offset: int, length: int) -> None:
    """Where this cannot be done, or goes wrong, the flush at the end does it, and tells."""
    call = _sync_file_range()
    if call is not None:
        call(descriptor, offset, length, _BEGIN)
