# SPDX-License-Identifier: GPL-3.0-or-later
"""For ``das-server doctor``: which models run on this machine, with which memory profile, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from das_blender_addon.errors import OutOfMemory

from ..models.registry import ModelSpec, is_installed, list_models
from .families import pipeline_family
from .memory import PROFILES, Needs, pick_device, plan_memory
from .needs import Clip


@dataclass(frozen=True)
class DoctorReport:
    """One model on this machine.  ``profile`` "" means it fits nowhere; ``needs``: bytes per profile."""

    model: str
    installed: bool
    device: str
    profile: str
    reason: str
    needs: Mapping[str, int]


@dataclass(frozen=True)
class _Expected:
    """`memory.Needs` of a model whose files are not here, from the table of models."""

    spec: ModelSpec

    def peak_bytes(self, profile: str) -> int:
        return self.spec.memory_bytes[profile]

    def host_bytes(self, profile: str) -> int:
        return self.spec.host_bytes.get(profile, 0)


def doctor(models_folder: Path | None = None, device: str | torch.device = "auto") -> list[DoctorReport]:
    """For every known model: whether it is installed, which profile it would run with here, and why."""
    place = pick_device(device)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    reports = []
    for status in list_models(models_folder):
        spec, installed = status.spec, is_installed(status.folder)
        if not installed and not spec.memory_bytes:
            reason = "what it needs is known once it is installed"
            reports.append(DoctorReport(spec.name, False, str(place), "", reason, {}))
            continue
        needs: Needs = _Expected(spec)
        if installed:
            width, height = max(spec.sizes, key=lambda size: size[0] * size[1])
            batch = 2 if spec.default_guidance > 1 else 1
            clip = Clip(spec.num_frames[-1], width, height, spec.vae_tiling, batch)
            needs = pipeline_family(spec.family).measure_needs(status.folder, dtype, clip)
        try:
            plan = plan_memory(needs, place)
            profile, reason = plan.profile, plan.reason
        except OutOfMemory as error:
            profile, reason = "", error.message
        table = {profile: needs.peak_bytes(profile) for profile in PROFILES}
        reports.append(DoctorReport(spec.name, installed, str(place), profile, reason, table))
    return reports
