# SPDX-License-Identifier: GPL-3.0-or-later
"""Freed memory given back to the system.  No Blender in here.

Many large arrays of several threads leave the C library's heap full of holes, which it keeps: while a long shot is
composed the process would grow.  (To have each large array mapped by itself, as `M_MMAP_THRESHOLD` does, takes twice
the processor time.)
"""

from __future__ import annotations

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Let the system have what was freed, where the C library can be told to (glibc); nothing happens elsewhere."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
