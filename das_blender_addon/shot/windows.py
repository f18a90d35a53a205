# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot of any length, cut into windows that a model makes.  No Blender in here.

A window begins at a key picture where there is one in reach, else inside the window before it; two windows share
`OVERLAP` frames or more, over which one passes into the other (`take.join`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAP = 8
"""Frames that a window shares with the one before, at least, where the model's windows are long enough for that."""


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``stop`` − 1 of a shot (0-based), made in a clip of ``length`` frames, at least as many."""

    start: int
    stop: int
    length: int

    @property
    def count(self) -> int:
        """How many of the shot's frames it holds."""
        return self.stop - self.start

    @property
    def held(self) -> np.ndarray:
        """[length] i64: the shot's frames that fill the model's clip; the last one is held."""
        return np.minimum(np.arange(self.length), self.count - 1) + self.start


def cut_into_windows(count: int, lengths: Sequence[int], keys: Sequence[int] = ()) -> tuple[Window, ...]:
    """Cut ``count`` frames into windows of the model's ``lengths``, begun at ``keys`` (0-based) where that is possible.

    What fits into one window is one, the shortest that holds it.
    """
    longest = max(lengths)
    if count <= longest:
        return (Window(0, count, _shortest(count, lengths)),)
    overlap = min(OVERLAP, longest // 2)
    windows = [Window(0, longest, longest)]
    while windows[-1].stop < count:
        last = windows[-1]
        latest, earliest = last.stop - overlap, last.start + max(1, longest // 2)
        at_key = [key for key in keys if earliest <= key <= latest]
        start = max(at_key, default=latest)
        if count - start <= longest:
            length = _shortest(count - start, lengths)
            if not at_key:  # filled with the shot's own frames rather than with its last one
                start = max(count - length, last.start + 1)
            windows.append(Window(start, count, length))
        else:
            windows.append(Window(start, start + longest, longest))
    return tuple(windows)


def _shortest(count: int, lengths: Sequence[int]) -> int:
    return min(length for length in lengths if length >= count)


def owners(windows: Sequence[Window], index: int) -> tuple[Window, Window | None, float]:
    """(window, next one or None, share of the next one): which windows make the frame ``index`` of the shot.

    Over the frames that two windows share, the share of the later one goes from almost 0 to almost 1; where three share
    some, the first has passed into the second before that one passes into the third.
    """
    holding = [number for number, window in enumerate(windows) if window.start <= index < window.stop]
    before = windows[holding[0]]
    if len(holding) == 1:
        return before, None, 0.0
    after = windows[holding[1]]
    begin = max(after.start, windows[holding[0] - 1].stop if holding[0] else 0)
    return before, after, (index - begin + 1) / (before.stop - begin + 1)
