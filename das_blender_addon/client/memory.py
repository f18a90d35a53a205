# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of pieces of blobs that come and go."""

from __future__ import annotations

import numpy as np

LARGE_BYTES = (32 << 20) - (64 << 10)
"""Just below the largest piece of memory that glibc learns from (DEFAULT_MMAP_THRESHOLD_MAX of its malloc)."""


def keep_freed_memory() -> None:
    """Have the system's allocator keep what is freed for what comes next, as it does in a process that has had a large
    picture.

    glibc's gives a piece of 1 MiB back to the system as soon as it is free, so that every page of the next one is a
    page fault, until it has seen something larger come and go (mallopt(3), "dynamic mmap threshold").  Nothing of it
    is touched, so that it costs next to nothing; another allocator is not bothered by it.
    """
    np.empty(LARGE_BYTES, np.uint8)
