# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of each frame of a take while it is measured window by window: a frame that no further window holds is a
few figures and a heat map on disk, so that a long take needs no more memory than a short one.  No Blender in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..client.files import write_whole
from .adherence_figures import Flicker, Means, Tally


@dataclass
class FrameFigures:
    """Of one frame, of all windows that hold it: ``flicker`` as made, ``expected`` as predicted; ``objects``: by name.
    """

    tally: Tally
    flicker: Flicker = field(default_factory=Flicker)
    expected: Flicker = field(default_factory=Flicker)
    objects: dict[str, Means] = field(default_factory=dict)

    def told(self, frame: int) -> dict:
        """What a report says of it, the Blender frame ``frame``."""
        return {
            "frame": frame,
            **self.tally.figures(),
            **flickers(self.flicker, self.expected),
            "objects": {name: means.figures() for name, means in self.objects.items()},
        }


class MeasuredFrames:
    """The frames of a take, by their indices (0-based); heat maps go into ``folder``."""

    def __init__(self, folder: Path, height: int, frames: tuple[int, ...]):
        self._folder, self._height, self._frames = folder, height, frames
        self._open: dict[int, FrameFigures] = {}
        self._told: dict[int, dict] = {}
        self._written: set[int] = set()

    def at(self, index: int) -> FrameFigures:
        """The figures of a frame, to be added to."""
        return self._open.setdefault(index, FrameFigures(Tally(self._height)))

    def keep_heat_map(self, index: int, png: Callable[[], bytes]) -> None:
        """Write that of a frame; of several windows' the first one's.  Raises `StorageError`."""
        if index not in self._written:
            write_whole(self.heat_map(index), png())
            self._written.add(index)

    def heat_map(self, index: int) -> Path:
        """Its file."""
        return self._folder / f"{index + 1:04d}.png"

    def finish(self, before: int) -> None:
        """Nothing more is added to frames before the index ``before``."""
        for index in [index for index in self._open if index < before]:
            self._told[index] = self._open.pop(index).told(self._frames[index])

    def told(self) -> list[dict]:
        """What a report says of all frames."""
        self.finish(len(self._frames))
        return [told for _, told in sorted(self._told.items())]

    def fill_heat_maps(self) -> None:
        """Frames that the model did not make have that of the last one that it made before.  Raises `StorageError`."""
        last = -1
        for index in range(len(self._frames)):
            if index in self._written:
                last = index
            elif last >= 0:
                write_whole(self.heat_map(index), self.heat_map(last).read_bytes())


def flickers(flicker: Flicker, expected: Flicker) -> dict:
    """What a report says of both."""
    return {"flicker": flicker.levels, "flicker_expected": expected.levels}
