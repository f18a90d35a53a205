# SPDX-License-Identifier: GPL-3.0-or-later
"""A take and the tracking video behind it, while one render reads frame after frame of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DasError, StorageError
from ..protocol.png import decode_png, encode_png
from ..shot.tracked import ShotTracking
from ..tracking.coverage import straight_colours
from .cache import Take


@dataclass(frozen=True)
class FinishedPart:
    """Some of a shot's windows are in the cache: ``windows`` (from 0 on) ``of`` so many; ``folder``: the shot's."""

    windows: range
    of: int
    folder: Path

    @property
    def words(self) -> str:
        """One sentence."""
        if not self.windows:
            return f"No window is of this part; the shot has {self.of}"
        first, last = self.windows[0] + 1, self.windows[-1] + 1
        names = f"Window {first}" if first == last else f"Windows {first} to {last}"
        return f"{names} of {self.of} in {self.folder}"


@dataclass(frozen=True)
class FinishedTake:
    """A take and the tracking video behind it, for as long as one render needs them."""

    take: Take
    shot: ShotTracking

    @property
    def frames(self) -> tuple[int, ...]:
        """The Blender frames that it holds."""
        return self.take.frame_numbers

    def path(self, frame: int) -> Path:
        """The picture of the Blender frame ``frame``, a PNG at the render size."""
        return self.take.frames[self.take.frame_numbers.index(frame)]

    def passes(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Tracking video u8 [H,W,3] of ``frame`` at the render size, nearest neighbours, and how much of each pixel
        shows a surface, u8 [H,W].
        """
        plan, (tracking, coverage) = self.shot.plan, self.shot.passes(frame)
        left, top, right, bottom = plan.framing.crop
        columns = _nearest(left, right, plan.render_size[0])[None, :]
        rows = _nearest(top, bottom, plan.render_size[1])[:, None]
        if self.take.coverage:
            return tracking[rows, columns], _read(self.take.coverage[self.frames.index(frame)])
        return tracking[rows, columns], np.where(coverage[rows, columns], np.uint8(255), np.uint8(0))

    def cut_out(self, frame: int) -> bytes:
        """The picture of the Blender frame ``frame`` as a PNG that is transparent where no surface is seen."""
        return cut_out(self.path(frame).read_bytes(), self.passes(frame)[1])


def cut_out(png: bytes, alpha: np.ndarray) -> bytes:
    """The picture ``png``, over black, as a PNG with ``alpha`` (u8 [H,W]) and straight colours."""
    return encode_png(np.concatenate((straight_colours(decode_png(png), alpha), alpha[..., None]), axis=2))


def _read(path: Path) -> np.ndarray:
    """The grey picture ``path`` [H,W] u8.  Raises `StorageError`."""
    try:
        return decode_png(path.read_bytes())[..., 0]
    except (OSError, DasError) as error:
        raise StorageError(f"{path} of the take cannot be read; delete its folder to render it again.") from error


def _nearest(low: float, high: float, count: int) -> np.ndarray:
    """The model pixels under the centres of ``count`` render pixels between ``low`` and ``high``."""
    return (low + (np.arange(count) + 0.5) * (high - low) / count).astype(np.intp)
