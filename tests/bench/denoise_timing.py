# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and peak memory, and what to do where a device cannot."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from das_blender_addon.errors import OutOfMemory


def attempt(function: Callable[[], float], label: str) -> float | None:
    """What ``function`` returns, or None with a printed reason: "does not fit", or that it failed and how."""
    reason = ""
    try:
        return function()
    except (torch.OutOfMemoryError, OutOfMemory, MemoryError) as error:
        reason = f"does not fit: {first_line(error)}"
    except Exception as error:  # a kernel or compiler that this device does not have
        reason = f"failed: {type(error).__name__}: {first_line(error)}"
    print(f"  {label:<36} {reason}")  # out here nothing holds the tensors any more
    free()
    return None


def seconds(function: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of one call."""
    for _ in range(warm_up):
        function()
    synchronise()
    times = []
    for _ in range(repeats):
        started = clock()
        function()
        synchronise()
        times.append(clock() - started)
    return statistics.median(times)


def clock() -> float:
    """Wall time on a GPU; on a CPU the process's own time, which a busy machine disturbs less."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    """Let go of what nobody uses, and begin to look for peaks anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        try:
            reset.write_text("5", encoding="ascii")
        except OSError:  # then the host's peak is that of the whole run
            return


def device_peak_gib() -> float | None:
    """Most memory of the GPU since `free`."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def host_peak_gib() -> float | None:
    """Most memory of this process since `free`, where the system says."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM:")), None)


def cell(value: float | None, width: int, digits: int = 2) -> str:
    """A number of a table, "-" where there is none."""
    return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:110]
