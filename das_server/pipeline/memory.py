# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model of any family is laid out in memory: profiles, which one fits, and what is refused.

    resident            everything on the device, the text encoder too
    drop_text_encoder   the text encoder is there only while it encodes, the rest stays
    group_offload       the transformer's blocks come from host memory one after the other (`streaming`)
    cpu                 no accelerator

All give the same result.  How much each takes is computed in one place, `MemoryNeeds`, from what `needs` measures: the
planner, the doctor, the refusal of a clip that is too large and the way back from a full device read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from das_blender_addon.errors import ModelError, OutOfMemory

from ..models.registry import GIBIBYTE
from . import host_memory
from .base import LoadedModel

PROFILES = ("resident", "drop_text_encoder", "group_offload", "cpu")
"""From the fastest to the smallest."""

ON_DEVICE = PROFILES[:3]
"""Those that compute on the accelerator."""

NUM_SLOTS = 2
"""Blocks of a streamed model that have room on the device: the one that runs and the one that arrives."""

RESERVE_BYTES = GIBIBYTE // 2
"""Device memory left alone for the driver's own needs and fragmentation."""


class Needs(Protocol):
    """How much memory each profile takes."""

    def peak_bytes(self, profile: str) -> int:
        """Of the device at its peak, or of the host for "cpu"."""
        ...

    def host_bytes(self, profile: str) -> int:
        """Of this machine's own besides, where it is not the device's."""
        ...


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes of one model and clip.

    ``blocks`` of ``transformer`` are those that can be streamed, ``largest_block`` the largest of what comes at once,
    ``slabs`` the host memory that they lie in then (`slabs`).  ``converted_text_encoder``: what the text encoder takes
    of the host while it is read: nothing where its files have its dtype and are mapped as they are;
    ``converted_transformer`` likewise, while the slabs are filled.  ``tables``: kept beside a transformer that stays on
    the device.  ``encoding``, ``denoising``, ``decoding``: activations.
    """

    transformer: int
    blocks: int
    largest_block: int
    slabs: int
    converted_transformer: int
    text_encoder: int
    converted_text_encoder: int
    vae: int
    tables: int
    encoding: int
    denoising: int
    decoding: int

    @property
    def working(self) -> int:
        """Activations at their most."""
        return max(self.encoding, self.denoising, self.decoding)

    def resting_bytes(self, profile: str) -> int:
        """Device memory that ``profile`` takes between clips and during all of one but its text."""
        if profile == "group_offload":
            return self.vae + self.transformer - self.blocks + NUM_SLOTS * self.largest_block
        stays = self.transformer + self.tables + self.vae
        if profile in ("resident", "cpu"):
            return stays + self.text_encoder
        if profile == "drop_text_encoder":
            return stays
        raise ModelError(f"There is no memory profile {profile!r}; use auto, {', '.join(PROFILES)}.", field="profile")

    def peak_bytes(self, profile: str) -> int:
        """Memory that ``profile`` takes at its peak: of the device, or of the host for "cpu"."""
        clip = self.resting_bytes(profile) + self.working
        return max(self.text_encoder + self.tables, clip) if profile == "drop_text_encoder" else clip

    def host_bytes(self, profile: str) -> int:
        """This machine's own memory that ``profile`` takes besides the device's, where the two are not the same."""
        if profile == "resident":
            return self.converted_text_encoder  # on its way to the device
        if profile == "drop_text_encoder":  # the others wait there while the text encoder is on the device
            return self.transformer + self.vae + self.converted_text_encoder
        if profile == "group_offload":
            return self.slabs + max(self.converted_transformer, self.converted_text_encoder)
        return 0


@dataclass(frozen=True)
class MemoryPlan:
    """The chosen profile and why; ``needed_bytes`` and ``free_bytes`` are of ``device``."""

    profile: str
    device: torch.device
    needed_bytes: int
    free_bytes: int
    reason: str


def plan_memory(
    needs: Needs,
    device: torch.device,
    *,
    profile: str = "auto",
    below: str = "",
    free: int | None = None,
    host_free: int | None = None,
) -> MemoryPlan:
    """Choose a profile, or check the chosen one.  ``free``, ``host_free``: bytes, measured when None.

    "auto" tries them all, the fastest first; with ``below``, the device's own that are smaller than that one.  Raises
    `OutOfMemory` that names the fastest and the smallest profile that would fit, `ModelError` for an unknown profile.
    """
    if profile not in ("auto", *PROFILES):
        raise ModelError(f"There is no memory profile {profile!r}; use auto, {', '.join(PROFILES)}.", field="profile")
    on_cpu = torch.device("cpu")
    host_free = free_memory(on_cpu) if host_free is None else host_free
    if free is None:
        free = host_free if device.type == "cpu" else free_memory(device)
    if profile != "auto":
        candidates = [profile]
    elif below:
        candidates = list(ON_DEVICE[ON_DEVICE.index(below) + 1 :])
    else:
        candidates = ["cpu"] if device.type == "cpu" else list(PROFILES)

    lacks = {name: _lack(needs, name, device, free, host_free) for name in PROFILES}
    for candidate in candidates:
        if not lacks[candidate]:
            how = "chosen" if profile == "auto" else "asked for"
            place, available = (on_cpu, host_free) if candidate == "cpu" else (device, free - RESERVE_BYTES)
            needed = needs.peak_bytes(candidate)
            reason = f"{candidate} is {how}: it needs {in_gib(needed)} and {place} has {in_gib(available)} to give."
            return MemoryPlan(candidate, place, needed, available, reason)

    usable = [name for name in PROFILES if name == "cpu" or device.type != "cpu"]
    fitting = [name for name in usable if not lacks[name]]
    wanted = candidates[-1]
    raise OutOfMemory(f"The profile {wanted} {lacks[wanted]}: {_remedy(fitting)}.", field="profile")


def _lack(needs: Needs, profile: str, device: torch.device, free: int, host_free: int) -> str:
    """What ``profile`` needs and does not get, in words; "" when it fits."""
    place, available = ("cpu", host_free) if profile == "cpu" else (device, free - RESERVE_BYTES)
    needed = needs.peak_bytes(profile)
    if needed > available:
        return f"needs {in_gib(needed)}, but {place} has {in_gib(max(0, available))} to give"
    if device.type != "cpu" and needs.host_bytes(profile) > host_free:
        return (
            f"keeps {in_gib(needs.host_bytes(profile))} in this machine's own memory, but that has "
            f"{in_gib(host_free)} to give"
        )
    return ""


def _remedy(fitting: Sequence[str], verb: str = "use") -> str:
    """What to do, given the profiles that would fit, the fastest first."""
    if not fitting:
        return "no profile fits; use a smaller model or free memory"
    on_device = [profile for profile in fitting if profile != "cpu"] or fitting
    smallest = f", or the smallest that fits, {on_device[-1]}" if len(on_device) > 1 else ""
    return f"{verb} the profile {fitting[0]}{smallest}"


def pick_device(device: str | torch.device) -> torch.device:
    """ "auto" → CUDA when there is one, else the CPU.  Raises `ModelError` for one that this machine does not have."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"There is no device {device!r}: use auto, cpu or cuda:0.", field="device") from error
    if picked.type not in ("cpu", "cuda"):
        raise ModelError(f"The device {device} is not supported: use auto, cpu or cuda:0.", field="device")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"The device {device} is not there: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices on this machine.",
            field="device",
        )
    return picked


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken: on CUDA what the driver and PyTorch's own cache have, on the CPU available
    memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_memory.available_bytes()


def check_room(model: LoadedModel, what: str, needs: MemoryNeeds) -> None:
    """Refuse a request whose activations cannot fit beside what is loaded.  Raises `OutOfMemory` before any work.

    ``what``: the request in words.  ``needs``: of the model as it is loaded, and of the request.
    """
    free, needed = free_memory(model.device), needs.working
    if model.profile == "resident" and model.prompt_encoder.model is None:
        free -= model.prompt_encoder.size_bytes()  # it is still to come, and stays
    if needed > free:
        smaller = ON_DEVICE[ON_DEVICE.index(model.profile) + 1 :] if model.device.type != "cpu" else ()
        rests = needs.resting_bytes(model.profile)
        fitting = [profile for profile in smaller if needed <= free + rests - needs.resting_bytes(profile)]
        remedy = _remedy(fitting, "load the model with") if fitting else "ask for a smaller size or fewer frames"
        raise OutOfMemory(
            f"{what} needs {in_gib(needed)} to work in, but {model.device} has {in_gib(max(0, free))} free: {remedy}.",
            field="profile",
        )


def in_gib(size_bytes: int) -> str:
    """A size in words."""
    return f"{size_bytes / GIBIBYTE:.1f} GiB"
