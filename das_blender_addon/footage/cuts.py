# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts in a clip: two frames after one another that show other things."""

from __future__ import annotations

import numpy as np

from ..errors import SettingsError

_ROWS, _COLUMNS, _BINS = 18, 32, 16
LEAST = 6.0
"""Levels of 255 by which the small pictures of a cut differ at least."""
TIMES = 3.0
"""A cut differs this many times as much as the frames before and after it do."""
HISTOGRAM = 0.12
"""Share of the pixels whose colours a cut exchanges at least."""


def find_cuts(pictures: np.ndarray) -> list[int]:
    """Of ``pictures`` u8 [T,H,W,3] the numbers (from 1) of the first frames after a cut, in order."""
    small = np.stack([_small(picture) for picture in pictures])
    differ = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3)) if len(small) > 1 else np.zeros(0)
    apart = np.array([_exchanged(*pair) for pair in zip(pictures[:-1], pictures[1:], strict=True)])
    cuts = []
    steps = np.flatnonzero(differ > 0.0)  # a picture that is repeated is none
    for place, number in enumerate(steps):
        beside = [other for other in (place - 2, place - 1, place + 1, place + 2) if 0 <= other < len(steps)]
        usual = float(np.median(differ[steps[beside]])) if beside else 0.0
        if differ[number] >= LEAST and differ[number] >= TIMES * usual and apart[number] >= HISTOGRAM:
            cuts.append(int(number) + 2)
    return cuts


def check_no_cut(pictures: np.ndarray, name: str, first: int = 1) -> None:
    """Raise `SettingsError` where the clip ``name`` has a cut; ``first``: its frame that ``pictures`` begin with."""
    cuts = find_cuts(pictures)
    if cuts:
        cut = cuts[0]
        more = f" (and {len(cuts) - 1} more)" if len(cuts) > 1 else ""
        raise SettingsError(
            f"The clip {name} has a cut between its frames {first + cut - 2} and {first + cut - 1}{more}, and a shot "
            f"has none; take the part before it (--frames {cut - 1}) or after it (--from {first + cut - 1}).",
            field="frames",
        )


def _small(picture: np.ndarray) -> np.ndarray:
    rows = np.linspace(0, picture.shape[0], min(_ROWS, picture.shape[0]) + 1).astype(int)[:-1]
    columns = np.linspace(0, picture.shape[1], min(_COLUMNS, picture.shape[1]) + 1).astype(int)[:-1]
    total = np.add.reduceat(np.add.reduceat(picture.astype(np.float32), rows, axis=0), columns, axis=1)
    counts = np.diff(np.r_[rows, picture.shape[0]])[:, None] * np.diff(np.r_[columns, picture.shape[1]])
    return total / counts[..., None]


def _exchanged(one: np.ndarray, other: np.ndarray) -> float:
    """Half the distance between the histograms of two pictures, of the channel that differs most: 0 to 1."""
    apart = []
    for channel in range(3):
        counts = [
            np.bincount(picture[..., channel].ravel() // (256 // _BINS), minlength=_BINS) for picture in (one, other)
        ]
        apart.append(np.abs(counts[0] - counts[1]).sum() / (2.0 * one[..., channel].size))
    return float(max(apart))
