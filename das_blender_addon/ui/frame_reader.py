# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames that are read in threads, so that drawing waits for none: a large PNG file takes longer than a redraw may."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .job_overlay import png_pixels

THREADS, MOST = 2, 8
"""Frames that are read at a time, and that are kept until somebody asks for them: 33 MB each of 1920×1080."""

Name = tuple[Path, int]
"""A file, and when it changed."""


class FrameReader:
    """Reads PNG files; what was asked for longest ago is forgotten first."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._asked: OrderedDict[Name, Future] = OrderedDict()

    def ask(self, name: Name) -> None:
        """Have ``name`` read, if it is not."""
        if name in self._asked:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="das frames")
        self._asked[name] = self._pool.submit(png_pixels, name[0])
        while len(self._asked) > MOST:
            self._asked.popitem(last=False)[1].cancel()

    def take(self, name: Name) -> np.ndarray | None:
        """[H,W,4] f32 of ``name``, see `png_pixels`, once; None while it is read, which begins now if it had not.

        Raises `DasError` and `OSError` for a file that is none, or gone.
        """
        self.ask(name)
        if not self._asked[name].done():
            return None
        return self._asked.pop(name).result()

    @property
    def is_busy(self) -> bool:
        """Whether something is being read."""
        return any(not future.done() for future in self._asked.values())

    def close(self) -> None:
        """Forget everything."""
        self._asked.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
