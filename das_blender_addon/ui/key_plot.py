# SPDX-License-Identifier: GPL-3.0-or-later
"""A small picture of what the key pictures of a shot leave unseen, frame by frame, for the panel."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from ..protocol.png import encode_png
from ..shot.machine import user_folder

LOGGER = logging.getLogger(__name__)
SIZE = (256, 128)
GROUND, GRID, BEFORE, AFTER, LIMIT = (38, 38, 38), (60, 60, 60), (150, 150, 150), (245, 160, 60), (200, 70, 60)

_shown: Path | None = None


def plot_path() -> Path | None:
    """The picture of the last suggestion in this session, or None."""
    return _shown


def keep_plot(found, most_unseen: float) -> None:
    """Draw ``found`` (`key_recipes.Suggested`); a disk that refuses is logged, as nothing needs it."""
    global _shown
    picture = plot(found.looked_at, found.unseen_before, found.unseen_after, most_unseen)
    _shown = keep_picture("keys", picture) or _shown


def keep_picture(name: str, picture: np.ndarray) -> Path | None:
    """The file of this session's ``picture`` [H,W,3] u8 called ``name``; None, and a log line, where the disk refuses.
    """
    try:
        path = user_folder("previews") / f"step-{os.getpid()}-{name}.png"
        path.write_bytes(encode_png(picture))
    except OSError as error:
        LOGGER.warning("The plot cannot be written: %s", error)
        return None
    return path


def plot(frames, before: np.ndarray, after: np.ndarray, most_unseen: float | None = None) -> np.ndarray:
    """[H,W,3] u8 of `SIZE`: the shares ``before`` and ``after`` [F] (0 to 1) over ``frames`` [F], 0 at the bottom.

    ``most_unseen``: with a line at it; None: without one, and 1 at the top.
    """
    width, height = SIZE
    top = 1.0 if most_unseen is None else max(float(np.max(before)), float(np.max(after)), 2.0 * most_unseen, 0.05)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = GROUND
    for part in (0.25, 0.5, 0.75):
        picture[int(part * (height - 1))] = GRID
    places = np.asarray(frames, float)
    across = np.linspace(places[0], places[-1], width)
    for values, colour in ((before, BEFORE), (after, AFTER)):
        share = np.interp(across, places, values) / top
        rows = np.rint((1.0 - share) * (height - 1)).astype(int)
        for column, row in enumerate(rows):
            following = rows[min(column + 1, width - 1)]
            low, high = min(row, following), max(row, following, row + 1)
            picture[max(0, low - 1) : min(height, high + 1), column] = colour
    if most_unseen is not None:
        picture[int((1.0 - most_unseen / top) * (height - 1)), ::4] = LIMIT
    return picture
