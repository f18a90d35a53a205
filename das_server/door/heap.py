# SPDX-License-Identifier: GPL-3.0-or-later
"""How this process uses its memory while it serves: what was freed is kept for what comes next, and what is there for
good is not looked through again and again."""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc (malloc.h)."""

KEPT_BYTES, LARGEST_KEPT_BYTES = 64 << 20, 32 << 20
"""What stays with the process at most, of each of the allocator's arenas, and the largest piece of memory that does."""


def keep_freed_memory() -> bool:
    """Have pieces of blobs take memory that others had before them → whether the system's allocator does so.

    glibc's gives a piece of 1 MiB back to the system as soon as it is free, and every page of the next one is then a
    page fault: for 64 MiB as much processor time as their SHA-256 takes.
    """
    if not sys.platform.startswith("linux"):
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None:
        return False
    return bool(option(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES) and option(_TRIM_THRESHOLD, KEPT_BYTES))


def keep_what_is_there() -> None:
    """Leave what was made until now, modules above all, out of every later garbage collection, so that none takes
    long."""
    gc.collect()
    gc.freeze()
