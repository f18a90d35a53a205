# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a clip's computation is left out: three points between exact and quick.

`docs/benchmarks.md` has what each of them loses, and `tests/bench/bench_speed.py` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

from das_blender_addon.errors import JobRejected

from ...models.block_cache import BlockCache
from ...models.registry import EXACT_STEPS

FEWEST_STEPS = 8
"""Step counts below this stay as they are."""


@dataclass(frozen=True)
class Speed:
    """``steps``: share of the steps that are made.  ``guidance``: how far from 1 a step's guidance must be to count;
    ``guided``: share of the steps, the first ones, in which a guidance that is always the same counts.  ``threshold``,
    ``most_in_a_row``: of `BlockCache`; 0: none.
    """

    steps: float = 1.0
    guidance: float = 0.0
    guided: float = 1.0
    threshold: float = 0.0
    most_in_a_row: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether nothing is left out."""
        return self == Speed()

    def num_steps(self, asked: int) -> int:
        """How many steps are made where ``asked`` are asked for: of those that divide the schedule, the most that are
        not more than its share."""
        if self.steps == 1.0 or asked < FEWEST_STEPS:
            return asked
        return max(count for count in EXACT_STEPS if count <= max(FEWEST_STEPS, self.steps * asked))

    def is_guided(self, index: int, num_steps: int, scale: float, *, dynamic: bool) -> bool:
        """Whether guidance of ``scale`` counts in a step."""
        if dynamic:
            return abs(scale - 1.0) >= self.guidance
        return index < self.guided * num_steps

    def cache(self) -> BlockCache | None:
        """For one run and one set of rows."""
        return BlockCache(self.threshold, self.most_in_a_row) if self.threshold else None


SPEEDS = {
    "exact": Speed(),
    "fast": Speed(guidance=0.25, guided=0.8, threshold=0.1, most_in_a_row=2),
    "preview": Speed(steps=0.5, guidance=1.0, guided=0.6, threshold=0.2, most_in_a_row=4),
}
"""What ``das-server serve --speed`` and a job's option name."""


def speed_named(name: str) -> Speed:
    """Raises `JobRejected` that names those there are."""
    if name not in SPEEDS:
        raise JobRejected(f"speed is {name!r}: use {', '.join(SPEEDS)}.", field="speed")
    return SPEEDS[name]
