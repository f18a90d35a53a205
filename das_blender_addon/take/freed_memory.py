# SPDX-License-Identifier: GPL-3.0-or-later
"""Freed memory kept for the next frame, and given back to the system.  No Blender in here.

Many large arrays of several threads leave the C library's heap full of holes, which it keeps: while a long shot is
composed the process would grow.  (To have each large array mapped by itself, as a low `M_MMAP_THRESHOLD` does, takes
twice the processor time.)  Left to itself it gives the heap's end back after every array, too, and each page of the
next one is made anew: twice as many of them, 49 frames at 720×480, and 3 % of the processor time.
"""

from __future__ import annotations

import ctypes
import sys

PIXELS_TO_TRIM = 8 << 20
"""Pixels that memory was used for, after which what is free is given back: 8 frames of 1280×854."""
LARGEST_IN_HEAP, KEPT = 32 << 20, 256 << 20
"""Arrays that lie in the heap, bytes, as large as the C library would come to by itself, and what it keeps free."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's `mallopt`


def keep_freed_memory() -> None:
    """Let freed memory stay where it is until `give_back_freed_memory`, with glibc; nothing happens elsewhere."""
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        library.mallopt(_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        library.mallopt(_TRIM_THRESHOLD, KEPT)


def give_back_freed_memory() -> None:
    """Let the system have what was freed, where the C library can be told to (glibc); nothing happens elsewhere."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class KeptMemory:
    """While it is open, freed memory is kept, but not for longer than some frames."""

    def __init__(self):
        self._pixels = 0

    def __enter__(self):
        keep_freed_memory()
        return self

    def __exit__(self, *_):
        give_back_freed_memory()

    def used_for(self, pixels: int) -> None:
        """So many more ``pixels`` are made."""
        self._pixels += pixels
        if self._pixels >= PIXELS_TO_TRIM:
            self._pixels = 0
            give_back_freed_memory()
