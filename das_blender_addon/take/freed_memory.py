# SPDX-License-Identifier: GPL-3.0-or-later
"""Freed memory kept for the next frame, and given back to the system.  No Blender in here.

Many large arrays of several threads leave the C library's heap full of holes, which it keeps: while a long shot is
composed the process would grow.  (To have each large array mapped by itself, as a low `M_MMAP_THRESHOLD` does, takes
twice the processor time.)  Left to itself it gives the heap's end back after every array, too, and each page of the
next one is made anew: twice as many of them, 49 frames at 720×480, and 3 % of the processor time.

An artist's Blender has it for that long only.  What the C library was set to cannot be read, nor can its own rule,
which moves both limits with what is freed, be begun again; so it is left as that rule leaves it where arrays of
`LARGEST_IN_HEAP` have been freed: these in the heap, and twice as much kept free.
"""

from __future__ import annotations

import ctypes
import sys
import threading

PIXELS_TO_TRIM = 8 << 20
"""Pixels that memory was used for, after which what is free is given back: 8 frames of 1280×854."""
LARGEST_IN_HEAP, KEPT = 32 << 20, 256 << 20
"""Arrays that lie in the heap, bytes, as large as the C library would come to by itself, and what it keeps free."""
KEPT_OTHERWISE = 2 * LARGEST_IN_HEAP
"""What the C library keeps free by itself when arrays that large lie in the heap (`mallopt(3)`)."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's `mallopt`


def keep_freed_memory() -> None:
    """Let freed memory stay where it is until `give_back_freed_memory`, with glibc; nothing happens elsewhere."""
    _let_lie(KEPT)


def keep_freed_memory_no_longer() -> None:
    """Set the C library back as well as can be, see above, and `give_back_freed_memory`."""
    _let_lie(KEPT_OTHERWISE)
    give_back_freed_memory()


def _let_lie(size_bytes: int) -> None:
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        library.mallopt(_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        library.mallopt(_TRIM_THRESHOLD, size_bytes)


def give_back_freed_memory() -> None:
    """Let the system have what was freed, where the C library can be told to (glibc); nothing happens elsewhere."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_opened = [0]
_lock = threading.Lock()


class KeptMemory:
    """While one is open, freed memory is kept, but not for longer than some frames; nothing is when the last one of
    this process is closed.
    """

    def __init__(self):
        self._pixels = 0

    def __enter__(self):
        with _lock:
            _opened[0] += 1
            keep_freed_memory()
        return self

    def __exit__(self, *_):
        with _lock:
            _opened[0] -= 1
            if _opened[0]:
                give_back_freed_memory()
            else:
                keep_freed_memory_no_longer()

    def used_for(self, pixels: int) -> None:
        """So many more ``pixels`` are made."""
        self._pixels += pixels
        if self._pixels >= PIXELS_TO_TRIM:
            self._pixels = 0
            give_back_freed_memory()
