# SPDX-License-Identifier: GPL-3.0-or-later
"""For ``das-server doctor``: which models run on this machine, with which memory profile, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.registry import is_installed, list_models
from .memory import PROFILES, RESERVE_BYTES, free_memory, in_gib, pick_device
from .needs import measure_needs


@dataclass(frozen=True)
class DoctorReport:
    """One model on this machine.  ``profile`` "" means it fits nowhere; ``needs``: bytes per profile."""

    model: str
    installed: bool
    device: str
    profile: str
    reason: str
    needs: Mapping[str, int]


def doctor(models_folder: Path | None = None, device: str | torch.device = "auto") -> list[DoctorReport]:
    """For every known model: whether it is installed, which profile it would run with here, and why."""
    place = pick_device(device)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    reports = []
    for status in list_models(models_folder):
        spec = status.spec
        width, height = max(spec.sizes, key=lambda size: size[0] * size[1])
        installed = is_installed(status.folder)
        if installed:
            clip = {"num_frames": spec.num_frames[-1], "width": width, "height": height, "vae_tiling": spec.vae_tiling}
            batch = 2 if spec.default_guidance > 1 else 1
            needs = measure_needs(status.folder, dtype, batch=batch, **clip)
            table = {profile: needs.peak_bytes(profile) for profile in PROFILES}
            host_table = {profile: needs.host_bytes(profile) for profile in PROFILES}
        else:
            table, host_table = dict(spec.memory_bytes), {}
        profile, reason = _first_fitting(table, host_table, place)
        reports.append(DoctorReport(spec.name, installed, str(place), profile, reason, table))
    return reports


def _first_fitting(
    table: Mapping[str, int], host_table: Mapping[str, int], device: torch.device
) -> tuple[str, str]:
    """The fastest profile that fits, and why; "" when none does.  The tables: bytes per profile, of the device and of
    the host besides."""
    host_free = free_memory(torch.device("cpu"))
    tried = []
    for profile in PROFILES if device.type != "cpu" else ("cpu",):
        if profile not in table:
            continue
        where = "the host" if profile == "cpu" else str(device)
        available = host_free if profile == "cpu" else free_memory(device) - RESERVE_BYTES
        resting = host_table.get(profile, 0)
        beside = f" (and {in_gib(resting)} of the host, which has {in_gib(host_free)})" if resting else ""
        tried.append(f"{profile} needs {in_gib(table[profile])} and {where} has {in_gib(available)} to give{beside}")
        if table[profile] <= available and resting <= host_free:
            return profile, tried[-1]
    return "", "; ".join(tried)
