# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a worker may be silent, stand still or go on after a cancel: the same wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CANCELLED_STEPS = 3.0
"""A worker that was asked to stop has at least this many of its own median steps for that."""

STALLED_STEPS = 20.0
"""A job stalls when it does not move for this many of its own median steps …"""

SHORTEST_STALL_S = 120.0
"""… but not sooner than this."""

STARTING_S = 180.0
"""A worker that has not said yet what it is may be silent for this long at least: while the machine reads gigabytes of
libraries for the first time, perhaps from a file server, its Python does nothing else.
"""

TAKE_UP_S = 10.0
"""How long a worker may say that it has nothing to do after it was given a job."""


@dataclass(frozen=True)
class Patience:
    """Seconds; see `ServerConfig`."""

    cancel_grace_s: float = 15.0
    heartbeat_timeout_s: float = 30.0
    stall_timeout_s: float = 3600.0

    def grace_s(self, beat: Mapping[str, Any]) -> float:
        """How long a worker may take to stop, by its last heartbeat."""
        return max(self.cancel_grace_s, CANCELLED_STEPS * beat.get("step_s", 0.0))

    def what_is_wrong(
        self,
        beat: Mapping[str, Any],
        *,
        silent_s: float,
        is_starting: bool = False,
        ordered_s: float | None = None,
        cancelled_s: float = 0.0,
        grace_s: float = float("inf"),
    ) -> str:
        """Why a worker must be given up, for "The worker …", or "".  ``is_starting``: it has never been ready;
        ``ordered_s``: since it has its job, None without one; ``cancelled_s``: since it was asked to stop within
        ``grace_s``."""
        since, step_s = beat.get("since_progress_s", 0.0), beat.get("step_s", 0.0)
        is_denoising = step_s and beat.get("stage") == "denoising"
        stall_s = max(SHORTEST_STALL_S, STALLED_STEPS * step_s) if is_denoising else float("inf")
        limit_s = max(self.heartbeat_timeout_s, STARTING_S if is_starting else 0.0)
        if silent_s > limit_s:
            return f"was silent for {limit_s:.0f} s"
        if ordered_s is None:
            return ""
        if beat.get("state") == "ready" and ordered_s > TAKE_UP_S:
            return "did not take up its job"
        if cancelled_s > grace_s:
            return f"did not stop within {grace_s:g} s of being asked to"
        return f"made no progress for {since:.0f} s" if since > min(stall_s, self.stall_timeout_s) else ""
