# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frames of a shot a model makes, and the windows that it makes them in.  No Blender in here.

A model that was trained at fewer frames per second than the shot has makes every nth frame only; what lies between is
composed from those (`take.between`).  A window begins at a key picture where there is one in reach, else inside the
window before it; two windows share `OVERLAP` of the model's frames or more, over which one passes into the other
(`take.join`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

OVERLAP = 8
"""Frames that a window shares with the one before, at least, where the model's windows are long enough for that."""
MOST_EVERY = 1000
"""Larger steps from one of the model's frames to the next nobody means."""


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``stop`` − 1 (0-based) of those that a model makes of a shot, made in a clip of ``length``
    frames, at least as many.
    """

    start: int
    stop: int
    length: int

    @property
    def count(self) -> int:
        """How many frames it holds."""
        return self.stop - self.start

    @property
    def held(self) -> np.ndarray:
        """[length] i64: the frames, counted as ``start`` is, that fill the model's clip; the last one is held."""
        return np.minimum(np.arange(self.length), self.count - 1) + self.start


def frames_every(frames_per_second: float, models: float) -> int:
    """Every how many frames of a shot of ``frames_per_second`` a model makes one, to be as near as it gets to the
    ``models`` that it was trained with; 1 where either is 0, not known.
    """
    if frames_per_second <= 0.0 or models <= 0.0:
        return 1
    return min(max(1, math.floor(frames_per_second / models + 0.5)), MOST_EVERY)


def made_frames(count: int, every: int, keys: Sequence[int] = (0,)) -> tuple[int, ...]:
    """Frames (0-based, increasing) of ``count`` that a model makes: every ``every``-th, counted anew from each of the
    ``keys`` on, and the last.

    So each key picture is one of the model's frames, and a frame that is not lies between two that are.  What is made
    before a key picture does not depend on it, nor on how long the shot is.
    """
    begins = sorted({0, *keys})
    parts = (range(begin, end, every) for begin, end in zip(begins, [*begins[1:], count], strict=True))
    return tuple(sorted({*chain.from_iterable(parts), count - 1}))


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
    """(window, next one or None, share of the next one): which windows make the model's frame ``index``.

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
