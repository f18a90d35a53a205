# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this device can compute the transformer's blocks in float8: an opt-in, since it changes the frames a little.

Unlike an attention kernel it is never replaced in silence: who asked for it and cannot have it is told.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from das_blender_addon.errors import ModelError

from ..models.float8 import Float8Linear
from .acceleration import DeviceDescription, describe_device, in_one_line, relative_difference
from .device_errors import is_device_lost
from .kernel_notes import note_of, write_note
from .memory import pick_device

log = logging.getLogger(__name__)

LEAST_CAPABILITY = (8, 9)
"""Compute capability from which NVIDIA's GPUs multiply float8: Ada and Hopper."""

PROBE_TOLERANCE = 0.1
"""Relative RMS by which a float8 layer may differ from the exact one: e4m3 rounds at up to 6 %."""


def why_not_float8(device: DeviceDescription) -> str:
    """Why a device of this description cannot, "" if it can."""
    needs = f"float8 needs an NVIDIA GPU of compute capability {_dotted(LEAST_CAPABILITY)} or later"
    if device.kind != "cuda" or device.capability is None:
        return f"{needs} and this is {device.name}"
    if device.capability < LEAST_CAPABILITY:
        return f"{needs} and {device.name} has {_dotted(device.capability)}"
    return ""


def probe_float8(device: torch.device, dtype: torch.dtype) -> str:
    """Run one small layer in float8 and exactly → what is wrong, "" if nothing.

    An error that leaves the device unusable is raised as it is.
    """
    draw = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(256, 512)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
        rows = torch.randn(96, 256, generator=draw).to(device, dtype)
        linear = linear.to(device, dtype)
        try:
            difference = relative_difference(Float8Linear(linear)(rows), linear(rows))
        except Exception as error:  # whatever a kernel does, it is not usable
            if is_device_lost(error):
                raise
            return f"float8 does not work on {device}: {in_one_line(error)}"
    if not difference <= PROBE_TOLERANCE:  # also true for NaN
        return f"float8 on {device} differs by {100 * difference:.2g} % from {str(dtype).removeprefix('torch.')}"
    return ""


def check_float8(device: torch.device, dtype: torch.dtype, kernel_notes: Path | None = None) -> None:
    """Raise `ModelError` where float8 cannot be used.

    ``kernel_notes``: the folder for notes of kernels that broke the device, which are not tried again.  Raises the
    error that leaves the device unusable, noted.
    """
    about = describe_device(device)
    note = note_of(kernel_notes, "float8", about.name)
    problem = why_not_float8(about)
    if not problem and note is not None and note.is_file():
        problem = f"float8 broke {about.name} before (remove {note} to try it again)"
    try:
        problem = problem or probe_float8(device, dtype)
    except Exception as error:
        write_note(note, in_one_line(error))
        raise
    if problem:
        raise ModelError(f"{problem}: start without float8.", field="float8")


def can_float8(device: str | torch.device, kernel_notes: Path | None = None) -> bool:
    """Whether float8 can be used for bfloat16 weights; tried on the device, which may break: see `check_float8`."""
    try:
        check_float8(pick_device(device), torch.bfloat16, kernel_notes)
    except ModelError as error:
        log.info("no float8: %s", error.message)
        return False
    return True


def doctor(device: str | torch.device = "auto") -> str:
    """Why float8 cannot be asked for here, "" if it can; tried on the device."""
    place = pick_device(device)
    try:
        return why_not_float8(describe_device(place)) or probe_float8(place, torch.bfloat16)
    except RuntimeError as error:  # the device is beyond use, and says so to whoever asks next
        return f"float8 broke {place}: {in_one_line(error)}"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(str(part) for part in capability)
