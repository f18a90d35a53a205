# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices there are, asked without torch, and the environment that a worker of each gets."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable

from das_blender_addon.errors import SettingsError
from das_server.models.registry import is_for_any_device, model_specs

_log = logging.getLogger(__name__)

SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Torch's threads sleep while they wait for each other, where the server's own environment says nothing else.  Those
that spin take the processors from a Blender beside them, and from each other: a clip of das-preview on two busy cores
took 23 s of processor time instead of 9.
"""
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(256 << 20)}
"""A C library (glibc) keeps what a worker frees for the next tensor, instead of having the system make each
of its pages anew: a second clip of das-preview needs 9,000 new pages instead of 111,000, 7 % less processor time, and
no more memory."""


def find_devices(names: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """(device, environment of its worker) for each name; "auto" is every CUDA device of this machine, or the CPU, and
    names joined by "+" are one worker of several.

    Asks ``nvidia-smi``, because importing torch here would cost seconds and a CUDA context.  Each worker sees only its
    own GPUs.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for name in names:
        if "+" in name:
            found.append(_group_of(name.split("+")))
        elif name == "auto":
            gpus = _visible_gpus()
            found += [("cuda:0", _gpu_environment(gpu)) for gpu in gpus] or [("auto", {})]
        elif name.startswith("cuda:") and name[5:].isdecimal():
            gpus = _visible_gpus()
            index = int(name[5:])
            if gpus and index >= len(gpus):
                names = ", ".join(f"cuda:{i}" for i in range(len(gpus)))
                raise SettingsError(f"The device {name} does not exist; this machine has {names}.", field="devices")
            found.append(("cuda:0", _gpu_environment(gpus[index])) if index < len(gpus) else (name, {}))
        else:
            found.append((name, {}))
    return found


def _group_of(names: list[str]) -> tuple[str, dict[str, str]]:
    """One worker of several devices: as it numbers those that it sees, and the environment in which it sees them."""
    parts = find_devices(tuple(names))
    gpus = [environment.get("CUDA_VISIBLE_DEVICES", "") for _, environment in parts]
    if not all(gpus):
        return "+".join(names), {}
    return "+".join(f"cuda:{i}" for i in range(len(parts))), _gpu_environment(",".join(gpus))


def model_to_load(model: str, device: str, devices: Iterable[str]) -> str:
    """What the worker on ``device`` loads at its start, where ``model`` is the default: a CPU beside a GPU gets no jobs
    of a model that asks for one, and loads the one that it gets."""
    beside_gpu = device == "cpu" and any(one.startswith("cuda") for one in devices)
    if not model or not beside_gpu or is_for_any_device(model):
        return model
    return next(name for name in model_specs() if is_for_any_device(name))


def _gpu_environment(gpu: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpu, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def _visible_gpus() -> list[str]:
    """Identifiers for CUDA_VISIBLE_DEVICES, as the environment of the server allows."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("nvidia-smi does not answer (%s), so GPUs are left to torch", error)
        return []
    return gpus_in(answer)


def gpus_in(listing: str) -> list[str]:
    """UUIDs in what ``nvidia-smi -L`` prints; of a GPU that is split, those of its parts (MIG devices)."""
    found: list[tuple[str, list[str]]] = []
    for uuid in re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", listing):
        if uuid.startswith("GPU"):
            found.append((uuid, []))
        elif found:
            found[-1][1].append(uuid)
    return [part for gpu, parts in found for part in (parts or [gpu])]
