# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps whose blocks are left out, because the first block says that they would change little: lossy, an opt-in.

Caches made for plain CogVideoX skip its main blocks while the tracking copies still run and are added again (`caches`).
Here the first main block and its copy always run; where what that block adds is nearly what it added before, all that
both branches have added after it is taken from then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class BlockCache:
    """Of one run and one set of rows.  ``threshold``: summed relative change of the first block's residual up to which
    the other blocks are left out.  ``most_in_a_row``: passes that are left out one after the other at most.
    ``left_out``, ``computed``: passes so far.
    """

    threshold: float
    most_in_a_row: int
    left_out: int = 0
    computed: int = 0
    drift: float = 0.0
    in_a_row: int = 0
    first: torch.Tensor | None = None
    """[B,N,C]: what the first block added in the pass before."""
    rest: torch.Tensor | None = None
    """[B,N,C]: what all others added, in the last pass that was computed."""

    def leaves_out(self, first: torch.Tensor) -> bool:
        """Whether the other blocks are left out in the pass whose first block adds ``first`` [B,N,C]."""
        before, self.first = self.first, first
        if self.rest is not None and before is not None and len(first) < len(before):
            before, self.rest = before[-len(first) :], self.rest[-len(first) :]  # the last rows stay
        if self.rest is None or before is None or before.shape != first.shape:
            self.rest = None
            return False
        change = (first - before).abs().mean(dtype=torch.float32) / before.abs().mean(dtype=torch.float32)
        self.drift += change.item()
        if not self.drift <= self.threshold or self.in_a_row >= self.most_in_a_row:  # the first is true for NaN, too
            return False
        self.in_a_row += 1
        self.left_out += 1
        return True

    def keep(self, rest: torch.Tensor) -> None:
        """The other blocks were computed and added ``rest``."""
        self.rest, self.drift, self.in_a_row = rest, 0.0, 0
        self.computed += 1

    def compute_next(self) -> None:
        """Whatever the first block says, the next pass is computed."""
        self.rest = None
