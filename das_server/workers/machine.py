# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker process asks of its machine: torch made ready, its threads, its memory."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

from das_server import __version__
from das_server.models.lean import lean_imports

PR_SET_PDEATHSIG = 1

FIRST_FAMILY = "cogvideox"
"""The model family that a worker imports at its start; others wait until a model of theirs is loaded."""


def import_all(*, compiler: bool) -> None:
    """Import all that a job needs, which takes seconds.  ``compiler``: blocks may be compiled."""
    import torch  # noqa: F401 — first, so that the rest finds it

    with lean_imports(compiler=compiler):
        import diffusers

        from das_server.pipeline import loading  # noqa: F401
        from das_server.pipeline.families import pipeline_family

        pipeline_family(FIRST_FAMILY)
    diffusers.utils.logging.disable_progress_bar()


def set_up_torch(device: str, threads: int, *, compiler: bool) -> dict[str, Any]:
    """Make torch reproducible, and its ``compiler`` where that may be used, and find the device → {device,
    device_label, versions}.

    The number of threads is part of what decides the last bits on a CPU, so it is fixed and reported.
    """
    import diffusers
    import torch

    torch.set_num_threads(threads)
    if compiler:
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_deterministic_debug_mode("warn")  # the same for all but the compiler, which it does not import
    torch.utils.deterministic.fill_uninitialized_memory = False  # or every new tensor would be written twice
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        label = f"{torch.cuda.get_device_name(device)} ({device})"
    else:
        label = f"CPU, {threads} thread{'' if threads == 1 else 's'} ({platform.machine()})"
    versions = {"das": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    versions |= {"python": platform.python_version()}
    return {"device": device, "device_label": label, "versions": versions}


def free_memory() -> None:
    import gc

    import torch

    from das_server.pipeline.slabs import let_pinned_memory_go

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        let_pinned_memory_go()


def peak_memory_bytes() -> int:
    """The most resident memory that this process ever had, 0 where the system does not say.

    Not `getrusage`: its peak begins with the memory of the parent that forked this process.
    """
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; who needs that elsewhere looks whether it lives."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.name == "posix" and os.getppid() != parent:  # it ended before the request was made
        os._exit(0)


def end_as_asked() -> None:
    """End of SIGTERM, as a process that does not listen to it: whoever sees that knows that the job has no part."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
