# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker does to torch before its first job."""

from __future__ import annotations

import platform
from typing import Any

from das_server import __version__


def set_up_torch(device: str, threads: int) -> dict[str, Any]:
    """Make torch reproducible and find the device → {device, device_label, versions}.

    The number of threads is part of what decides the last bits on a CPU, so it is fixed and reported.
    """
    import diffusers
    import torch
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
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
