# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast this server's devices make clips: taken from finished jobs, kept in the state folder.  Never imports torch.

What follows from it is one word on the wire, `ModelCapability.is_fast`: the client's automatic size may then be the
model's largest instead of its default.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from das_blender_addon.protocol.messages import JobSpec

_log = logging.getLogger(__name__)

NAME = "speed.json"
FAST_S = 15.0
"""A model is fast on a device that makes `LARGE_CLIP` within this time."""

LARGE_CLIP = (49, 360, 240)
"""(frames, width, height) of the clip that is judged."""

GROWTH = 1.55
"""Seconds of a clip grow with its pixels to this power: attention grows faster than they do, the rest as fast.
das-preview takes 7 times as long for 3.5 times the pixels on two CPU cores, which is this power; on a GPU, whose
small clips cost mostly overhead, it is too cautious."""


def large_clip_s(timings_s: dict[str, float], spec: JobSpec) -> float:
    """Seconds that `LARGE_CLIP` would take with the same steps, from the stages of a finished job; pure.

    Loading the model and writing files do not count.  A job larger than `LARGE_CLIP` counts as one of its size.
    """
    work_s = sum(timings_s.get(stage, 0.0) for stage in ("encoding", "denoising", "decoding", "composing"))
    frames, width, height = LARGE_CLIP
    pixels = frames * width * height / (spec.num_frames * spec.width * spec.height)
    return work_s * max(1.0, pixels) ** GROWTH


class SpeedRecord:
    """The best `large_clip_s` of every model on every device.  A device only ever becomes fast, never slow again: jobs
    that ran beside other work do not count against it.  Remove the file to forget.
    """

    def __init__(self, state: Path):
        self._path = Path(state) / NAME
        self._seconds: dict[str, dict[str, float]] = _read(self._path)

    def note(self, spec: JobSpec, report: dict[str, Any]) -> None:
        """Take in a finished job; a disk that refuses costs no job, it is logged."""
        device, timings_s = report.get("device"), report.get("timings_s")
        if not device or not timings_s or "denoising" not in timings_s:
            return
        seconds = round(large_clip_s(timings_s, spec), 3)
        best = self._seconds.setdefault(spec.model, {})
        if seconds >= best.get(device, float("inf")):
            return
        best[device] = seconds
        try:
            scratch = self._path.with_suffix(".tmp")
            scratch.write_text(json.dumps(self._seconds, indent=1, sort_keys=True))
            os.replace(scratch, self._path)
        except OSError as error:
            _log.warning("the speed of %s is not kept: %s", spec.model, error)

    def is_fast(self, model: str, devices: Iterable[str]) -> bool:
        """Whether every one of ``devices`` (their labels) was seen to be fast enough; False where there is none."""
        devices = list(devices)
        best = self._seconds.get(model, {})
        return bool(devices) and all(best.get(device, float("inf")) <= FAST_S for device in devices)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What was kept; nothing where the file is missing or is no such table."""
    try:
        kept = json.loads(path.read_text())
        return {str(model): {str(on): float(s) for on, s in best.items()} for model, best in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
