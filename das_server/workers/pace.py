# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a job takes, about: by those of its model that were made before, for what clients are told."""

from __future__ import annotations

import math
from typing import Any

from das_server.store.jobs import JobStore
from das_server.store.waiting import work_of

NEW = 0.3
"""How much the newest job counts against those before it."""

REMEMBERED = 200
"""Finished jobs that are looked at when the server starts."""


class Pace:
    """Seconds per `work_of` of every model on every device, by its label."""

    def __init__(self, store: JobStore | None = None):
        self._pace: dict[tuple[str, str], float] = {}
        for job in reversed(store.listed(["DONE"], limit=REMEMBERED)) if store is not None else ():
            done = store.last_event(job.job, "DONE")
            if done is not None and not job.problem:
                self.note(job.spec.model, work_of(job), done.fields.get("report"))

    def note(self, model: str, work: float, report: Any) -> None:
        """Take in the report of a finished job."""
        device, total_s = _said(report)
        if device and work > 0 and 0 < total_s < math.inf:
            before = self._pace.get((model, device), total_s / work)
            self._pace[model, device] = before + NEW * (total_s / work - before)

    def seconds(self, model: str, device: str, work: float) -> float:
        """About how long it takes there; where it was never made, the slowest device that has made it stands for it,
        and where none has, infinity."""
        paces = [pace for (name, _), pace in self._pace.items() if name == model]
        pace = self._pace.get((model, device), max(paces, default=math.inf))
        return pace * work if work > 0 else math.inf


def _said(report: Any) -> tuple[str, float]:
    if not isinstance(report, dict) or not isinstance(report.get("timings_s"), dict):
        return "", 0.0
    device, total_s = report.get("device"), report["timings_s"].get("total")
    return (device, float(total_s)) if isinstance(device, str) and isinstance(total_s, int | float) else ("", 0.0)
