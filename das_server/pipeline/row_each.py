# SPDX-License-Identifier: GPL-3.0-or-later
"""A row of guidance on each of two devices: what each computes, put together on both, and the end of both."""

from __future__ import annotations

from collections.abc import Callable

import torch

from das_blender_addon.errors import JobCancelled

from .group import Group


class RowEach:
    """``should_stop``: asked between blocks; on rank 0 whether somebody wants the end of the clip, on the other whether
    rank 0 has said "stop"."""

    def __init__(self, group: Group, should_stop: Callable[[], bool]):
        self._group, self._should_stop, self._is_stopped = group, should_stop, False

    def check(self) -> None:
        """Between blocks of a rank that computes by itself.  Raises `JobCancelled`."""
        self._note_stop()
        if self._is_stopped:
            raise JobCancelled("The job was cancelled.")

    def exchange(
        self, compute: Callable[[], torch.Tensor] | None, like: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(What this rank computes, None for nothing; what rank 1 computes), of the shape and dtype of ``like``.

        Raises `JobCancelled` on both ranks, with nothing sent that the other one waits for.
        """
        mine, nothing = None, torch.zeros_like(like)
        if compute is not None:
            try:
                mine = compute()
            except JobCancelled:
                mine = nothing
        if self._group.rank == 1:
            theirs = self._group.from_rank(1, mine)
        else:
            theirs = self._group.await_from_rank(1, nothing, self._note_stop)
        if self._is_stopped:
            raise JobCancelled("The job was cancelled.")
        return mine, theirs

    def _note_stop(self) -> None:
        """Where somebody wants the end, remember it; rank 0 tells the other, once."""
        if self._is_stopped or not self._should_stop():
            return
        self._is_stopped = True
        if self._group.rank == 0:
            self._group.tell("stop")
