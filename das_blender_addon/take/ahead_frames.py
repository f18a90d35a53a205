# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames that are composed, as far as the key pictures tell, before the model has painted theirs: held in little memory
until then.  No Blender in here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..tracking.composition import Gathered

AHEAD_BYTES = 192 << 20
"""What they may take, all together, in each process that composes: 34 frames of 720×480, 12 of 1280×720."""
AHEAD_PIXEL_BYTES = 17
"""What a pixel of one takes: its colour and its depth in float32, and, a bit or little more, masks and outlines."""
_NONE = np.zeros((0, 0), bool)


@dataclass(frozen=True)
class Shown:
    """What the key pictures show of the frame ``index``."""

    index: int
    gathered: Gathered


class AheadFrames:
    """Those of one shot.  Several threads may put them in and take them out."""

    def __init__(self):
        self._held: dict[int, tuple[Gathered, np.ndarray]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._held

    def __len__(self) -> int:
        return len(self._held)

    def room(self, pixels: int) -> int:
        """For how many more frames of so many ``pixels`` there is room."""
        return max(0, AHEAD_BYTES // (pixels * AHEAD_PIXEL_BYTES) - len(self._held))

    def keep(self, shown: Shown) -> Shown:
        """Hold ``shown``, which is returned as it is; one that is held already stays."""
        made = shown.gathered
        outline, mixed = (places.astype(np.int32) for places in (made.outline, made.mixed))
        small = replace(made, known=_NONE, outline=outline, mixed=mixed)
        self._held.setdefault(shown.index, (small, np.packbits(made.known)))
        return shown

    def pop(self, index: int) -> Shown:
        """The frame ``index`` as it was put in, which is no longer held."""
        small, packed = self._held.pop(index)
        shape = small.inverse_depth.shape
        known = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).view(bool)
        outline, mixed = (places.astype(np.int64) for places in (small.outline, small.mixed))
        return Shown(index, replace(small, known=known, outline=outline, mixed=mixed))
