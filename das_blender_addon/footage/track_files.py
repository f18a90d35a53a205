# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracks that another program made: an NPZ with ``tracks`` [T,N,2] or [T,N,3] (pixels from the top left, the first
pixel's centre 0.5, 0.5; depth as in `clip`) and ``visible`` bool [T,N].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import SettingsError
from .unreadable import UNREADABLE


def read_tracks(path: Path, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(tracks f32 [T,N,3], visible bool [T,N]) of ``count`` frames from ``first`` (from 1) on.

    A file with just as many frames is taken as it is; a longer one is that of the whole clip.  Raises `SettingsError`.
    """
    if not path.is_file():
        raise SettingsError(f"There is no file of tracks {path}.", field="tracks")
    try:
        with np.load(path) as arrays:
            tracks, visible = arrays["tracks"].astype(np.float32), arrays["visible"].astype(bool)
    except UNREADABLE as error:
        raise SettingsError(
            f"The tracks {path} cannot be read ({error}); give an .npz with tracks [T,N,2] and visible [T,N].",
            field="tracks",
        ) from error
    return fitted_tracks(tracks, visible, first, count, f"the file {path}")


def fitted_tracks(
    tracks: np.ndarray, visible: np.ndarray, first: int, count: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same of arrays; ``name``: where they come from."""
    if tracks.ndim != 3 or tracks.shape[2] not in (2, 3) or visible.shape != tracks.shape[:2] or not tracks.shape[1]:
        raise SettingsError(
            f"The tracks of {name} are {list(tracks.shape)} with visible {list(visible.shape)}; they are [T,N,2] or "
            "[T,N,3], with visible [T,N].",
            field="tracks",
        )
    if len(tracks) != count:
        tracks, visible = tracks[first - 1 : first - 1 + count], visible[first - 1 : first - 1 + count]
    if len(tracks) != count:
        raise SettingsError(
            f"The tracks of {name} end before frame {first + count - 1} of the clip; take fewer frames (--frames), or "
            "track all of it.",
            field="tracks",
        )
    if tracks.shape[2] == 2:
        flat = np.where(visible[..., None], tracks, np.nan)  # a flat tracker only guesses where a hidden point is
        tracks = np.concatenate([flat, np.full((*tracks.shape[:2], 1), np.nan)], axis=2)
    return np.ascontiguousarray(tracks, np.float32), np.ascontiguousarray(visible)
