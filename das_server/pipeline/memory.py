# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model is laid out in memory: profiles, what each needs, which one fits, and `doctor`.

    resident            everything on the device, the text encoder too
    drop_text_encoder   the text encoder is there only while it encodes, the rest stays
    group_offload       the transformer's blocks come from host memory one after the other, prefetched
    cpu                 no accelerator

All give the same result.  Weights are measured from the files' headers; activations are estimated from the
configuration by the two formulas in `measure_needs`.

For ``das-server doctor``: ``doctor(models_folder=None, device="auto") -> list[DoctorReport]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from das_blender_addon.errors import ModelError, OutOfMemory

from ..models.registry import GIBIBYTE, is_installed, list_models
from ..models.tensors import read_component_config, read_tensor_shapes, weight_files
from . import host_memory
from .base import LoadedModel

PROFILES = ("resident", "drop_text_encoder", "group_offload", "cpu")
"""From the fastest to the smallest."""

ON_DEVICE = PROFILES[:3]
"""Those that compute on the accelerator."""

RESERVE_BYTES = GIBIBYTE // 2
"""Device memory left alone for the driver's own needs and fragmentation."""

TOKEN_STREAMS = 16
"""Token streams [B,N,C] alive at once at the widest place of a block: input, residual, q/k/v, feed-forward (4 + 4) …"""

PIXEL_STREAMS = 12
"""Feature maps of the VAE's finest level alive at once while decoding."""


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes.  ``blocks`` of ``transformer`` are its repeated blocks, ``largest_block`` one of them; the last two are
    activations."""

    transformer: int
    blocks: int
    largest_block: int
    text_encoder: int
    vae: int
    denoising: int
    decoding: int

    def peak_bytes(self, profile: str) -> int:
        """Memory that ``profile`` takes at its peak: of the device, or of the host for "cpu"."""
        working = max(self.denoising, self.decoding)
        if profile == "resident":
            return self.transformer + self.text_encoder + self.vae + working
        if profile == "drop_text_encoder":
            return max(self.text_encoder, self.transformer + self.vae + working)
        if profile == "group_offload":
            # Three blocks: the one that runs, the one that arrives, the one that leaves.
            resting = self.transformer - self.blocks + 3 * self.largest_block
            return self.vae + max(resting + self.denoising, self.decoding)
        if profile == "cpu":
            return max(self.text_encoder, 0) + self.transformer + self.vae + working
        raise ModelError(f"There is no memory profile {profile!r}; use auto, {', '.join(PROFILES)}.", field="profile")

    def host_bytes(self, profile: str) -> int:
        """This machine's own memory that ``profile`` takes besides the device's, where the two are not the same."""
        if profile == "drop_text_encoder":
            return self.transformer + self.vae  # they wait there while the text encoder is on the device
        if profile == "group_offload":
            return self.transformer + self.text_encoder
        return 0


@dataclass(frozen=True)
class MemoryPlan:
    """The chosen profile and why; ``needed_bytes`` and ``free_bytes`` are of ``device``."""

    profile: str
    device: torch.device
    needed_bytes: int
    free_bytes: int
    reason: str


@dataclass(frozen=True)
class DoctorReport:
    """One model on this machine.  ``profile`` "" means it fits nowhere; ``needs``: bytes per profile."""

    model: str
    installed: bool
    device: str
    profile: str
    reason: str
    needs: Mapping[str, int]


def measure_needs(
    folder: Path, dtype: torch.dtype, *, num_frames: int, width: int, height: int, vae_tiling: bool, batch: int = 2
) -> MemoryNeeds:
    """What a checkpoint folder needs for one clip.  ``batch`` 2 is for guidance.  Raises `ModelError` for a bad
    folder."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    sizes = _tensor_bytes(folder / "transformer", dtype)
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        if parts[0] in ("transformer_blocks", "transformer_blocks_copy", "combine_linears"):
            blocks[".".join(parts[:2])] = blocks.get(".".join(parts[:2]), 0) + size
    return MemoryNeeds(
        transformer=sum(sizes.values()),
        blocks=sum(blocks.values()),
        largest_block=max(blocks.values(), default=0),
        text_encoder=sum(_tensor_bytes(folder / "text_encoder", dtype, stem="model").values()),
        vae=sum(_tensor_bytes(folder / "vae", dtype).values()),
        denoising=denoising_bytes(transformer, vae, dtype, num_frames, width, height, batch),
        decoding=decoding_bytes(vae, dtype, num_frames, width, height, vae_tiling),
    )


def needs_at_home(folder: Path, dtype: torch.dtype, vae_tiling: bool) -> MemoryNeeds:
    """What a checkpoint needs for a clip of the length and size in its own configuration.  Raises `ModelError`."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    try:
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        clip = {
            "num_frames": transformer["sample_frames"],
            "width": transformer["sample_width"] * stride,
            "height": transformer["sample_height"] * stride,
        }
        return measure_needs(folder, dtype, vae_tiling=vae_tiling, **clip)
    except (KeyError, TypeError) as error:
        raise ModelError(f"The configuration in {folder} is not that of a CogVideoX model: {error!r}.") from error


def denoising_bytes(
    transformer: Mapping, vae: Mapping, dtype: torch.dtype, num_frames: int, width: int, height: int, batch: int = 2
) -> int:
    """Activations of one forward pass: `TOKEN_STREAMS` streams of [batch, tokens, channels]."""
    stride = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    num_latent_frames = (num_frames - 1) // int(vae["temporal_compression_ratio"]) + 1
    tokens = num_latent_frames * (height // stride) * (width // stride) + transformer["max_text_seq_length"]
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return TOKEN_STREAMS * batch * tokens * channels * dtype.itemsize


def decoding_bytes(vae: Mapping, dtype: torch.dtype, num_frames: int, width: int, height: int, vae_tiling: bool) -> int:
    """Activations of the decoder's finest level for its ten frames at a time, plus the finished clip."""
    rows, columns = height, width
    if vae_tiling:
        rows, columns = min(rows, vae["sample_height"] // 2), min(columns, vae["sample_width"] // 2)
    finest = vae["block_out_channels"][0] * 10 * rows * columns * dtype.itemsize
    return PIXEL_STREAMS * finest + 2 * num_frames * height * width * 3 * dtype.itemsize


def plan_memory(
    needs: MemoryNeeds,
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
            reason = f"{candidate} is {how}: it needs {_gib(needed)} and {place} has {_gib(available)} to give."
            return MemoryPlan(candidate, place, needed, available, reason)

    usable = [name for name in PROFILES if name == "cpu" or device.type != "cpu"]
    fitting = [name for name in usable if not lacks[name]]
    wanted = candidates[-1]
    raise OutOfMemory(f"The profile {wanted} {lacks[wanted]}: {_remedy(fitting)}.", field="profile")


def _lack(needs: MemoryNeeds, profile: str, device: torch.device, free: int, host_free: int) -> str:
    """What ``profile`` needs and does not get, in words; "" when it fits."""
    place, available = ("cpu", host_free) if profile == "cpu" else (device, free - RESERVE_BYTES)
    needed = needs.peak_bytes(profile)
    if needed > available:
        return f"needs {_gib(needed)}, but {place} has {_gib(max(0, available))} to give"
    if device.type != "cpu" and needs.host_bytes(profile) > host_free:
        return (
            f"keeps {_gib(needs.host_bytes(profile))} in this machine's own memory, but that has "
            f"{_gib(host_free)} to give"
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


def check_room(pipeline: LoadedModel, num_frames: int, width: int, height: int, vae_tiling: bool, batch: int) -> None:
    """Refuse a request whose activations cannot fit beside what is loaded.  Raises `OutOfMemory` before any work."""
    transformer, vae = pipeline.transformer.config, pipeline.vae.config
    needed = max(
        denoising_bytes(transformer, vae, pipeline.dtype, num_frames, width, height, batch),
        decoding_bytes(vae, pipeline.dtype, num_frames, width, height, vae_tiling),
    )
    free = free_memory(pipeline.device)
    if pipeline.profile == "resident" and pipeline.prompt_encoder.model is None:
        free -= pipeline.prompt_encoder.size_bytes()  # it is still to come, and stays
    if needed > free:
        gains = _gains_of_smaller_profiles(pipeline) if pipeline.device.type != "cpu" else {}
        fitting = [profile for profile, gain in gains.items() if needed <= free + gain]
        remedy = _remedy(fitting, "load the model with") if fitting else "ask for a smaller size or fewer frames"
        raise OutOfMemory(
            f"A clip of {num_frames} frames of {width}x{height} needs {_gib(needed)} to work in, but "
            f"{pipeline.device} has {_gib(max(0, free))} free: {remedy}.",
            field="profile",
        )


def _gains_of_smaller_profiles(pipeline: LoadedModel) -> dict[str, int]:
    """Device memory in bytes that each profile below the pipeline's own would leave free beyond what is free now."""
    blocks = sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in pipeline.transformer.named_parameters()
        if name.startswith(("transformer_blocks", "combine_linears"))
    )
    if pipeline.profile == "resident":
        text_encoder = pipeline.prompt_encoder.size_bytes()
        return {"drop_text_encoder": text_encoder, "group_offload": text_encoder + blocks}
    return {"group_offload": blocks} if pipeline.profile == "drop_text_encoder" else {}


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
        beside = f" (and {_gib(resting)} of the host, which has {_gib(host_free)})" if resting else ""
        tried.append(f"{profile} needs {_gib(table[profile])} and {where} has {_gib(available)} to give{beside}")
        if table[profile] <= available and resting <= host_free:
            return profile, tried[-1]
    return "", "; ".join(tried)


def _tensor_bytes(folder: Path, dtype: torch.dtype, stem: str = "diffusion_pytorch_model") -> dict[str, int]:
    sizes = {}
    for path in weight_files(folder, stem=stem):
        for name, shape in read_tensor_shapes(path).items():
            count = 1
            for length in shape:
                count *= length
            sizes[name] = count * dtype.itemsize
    return sizes


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIBIBYTE:.1f} GiB"
