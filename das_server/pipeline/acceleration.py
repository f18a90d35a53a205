# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes the transformer faster without changing what it computes: the attention kernel, and compiled blocks.

    native   PyTorch's own choice of kernel: everywhere, and what everything else falls back to
    cudnn    cuDNN's kernel: faster on the GPUs of `CUDNN_GENERATIONS`, chosen there by "auto"

A kernel is used only after it has agreed with the native one on this very device (`probe_attention`).  Compilation of
the repeated blocks is off unless asked for.  Whatever fails, at its trial or in a job, is left out with one sentence in
the log.  Only an error that leaves the device unusable ends the process: a note is kept, and the next one does without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from das_blender_addon.errors import DasError, ModelError

from .base import Accelerated
from .device_errors import is_device_lost, is_out_of_memory
from .kernel_notes import note_of, write_note
from .memory import pick_device
from .randomness import deterministic_kernels

log = logging.getLogger(__name__)

DISPATCHER_NAMES = {"native": "native", "cudnn": "_native_cudnn"}
"""Our attention kernels → their names in diffusers' dispatcher."""

ATTENTION_BACKENDS = ("auto", *DISPATCHER_NAMES)
"""What can be asked for."""

CUDNN_GENERATIONS = (9, 10)
"""Major compute capabilities on which cuDNN's kernel is the faster one: Hopper (transformers' pull request 48163, which
found it slower on 8.0, 8.6 and 12.0, and no faster on 8.9) and the B200 (sglang's pull request 33655)."""

PROBE_ROWS = 777
"""Video rows of the probe: several tiles of any kernel and, like the rows of a clip, no whole number of them."""

PROBE_TOLERANCE = 0.01
"""Relative RMS by which two kernels may differ: bfloat16 rounds at 0.4 %, and each kernel rounds at other places."""

MAX_PROGRAMS = 1024
"""Compiled programs per block: a few for every size of clip that a worker is ever asked for.  PyTorch's own limit, 8,
is reached with the fifth size."""

FULL_MODEL = {"heads": 48, "head_dim": 64, "text_rows": 226}
"""The full model's attention, for `doctor`."""


@dataclass(frozen=True)
class DeviceDescription:
    """What the choice depends on.  ``capability``: compute capability (major, minor) of an NVIDIA GPU, else None.
    ``has_cudnn_attention``: this PyTorch offers the kernel and has it switched on."""

    kind: str
    name: str
    capability: tuple[int, int] | None = None
    has_cudnn_attention: bool = False


@dataclass(frozen=True)
class Acceleration:
    """What is in use, and why.  ``attention_backend``: "native" or "cudnn"; ``compiled``: the blocks are, or will be
    with the next clip; ``note``: the file that forbids this kernel on this device, for when it breaks it.
    ``set_aside``: modules and their compiled selves, for when those can be used again."""

    attention_backend: str = "native"
    compiled: bool = False
    reason: str = ""
    note: Path | None = None
    set_aside: tuple[tuple[torch.nn.Module, Any], ...] = field(default=(), compare=False, repr=False)


def describe_device(device: torch.device) -> DeviceDescription:
    """Ask PyTorch about a device."""
    if device.type != "cuda":
        return DeviceDescription(device.type, "CPU" if device.type == "cpu" else str(device))
    if torch.version.hip is not None:  # AMD: its capability numbers mean something else
        return DeviceDescription("rocm", torch.cuda.get_device_name(device))
    offered = torch.backends.cudnn.is_available() and torch.backends.cuda.cudnn_sdp_enabled()
    return DeviceDescription(
        "cuda", torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), offered
    )


def choose_attention(asked: str, device: DeviceDescription, dtype: torch.dtype) -> tuple[str, str]:
    """(attention kernel to try, why) for what was asked.  Raises `ModelError` for an unknown name."""
    if asked not in ATTENTION_BACKENDS:
        raise ModelError(
            f"There is no attention backend {asked!r}; use one of {', '.join(ATTENTION_BACKENDS)}.",
            field="attention_backend",
        )
    if asked == "native":
        return "native", "asked for"
    if device.kind != "cuda" or device.capability is None:
        return "native", f"cuDNN's kernel needs an NVIDIA GPU and this is {device.name}"
    if not device.has_cudnn_attention:
        return "native", f"this PyTorch does not offer cuDNN's kernel on {device.name}"
    if dtype not in (torch.bfloat16, torch.float16):
        return "native", f"cuDNN's kernel does not take {str(dtype).removeprefix('torch.')}"
    number = ".".join(str(part) for part in device.capability)
    if asked == "cudnn":
        return "cudnn", "asked for"
    if device.capability[0] not in CUDNN_GENERATIONS:
        return "native", f"cuDNN's kernel is not faster on {device.name} (compute capability {number})"
    return "cudnn", f"cuDNN's kernel is the faster one on {device.name} (compute capability {number})"


def probe_attention(
    backend: str, *, heads: int, head_dim: int, text_rows: int, device: torch.device, dtype: torch.dtype
) -> str:
    """Run one small attention of the model's shape with ``backend`` and with the native kernel → what is wrong, "" if
    nothing.

    With all rows as queries and, as in the tracking branch, without those of text.  Wrong are an error, values that
    differ by more than `PROBE_TOLERANCE`, and other bits the second time.  An error that leaves the device unusable is
    raised as it is.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    draw = torch.Generator().manual_seed(0)
    shape = (2, text_rows + PROBE_ROWS, heads, head_dim)
    query, key, value = (torch.randn(shape, generator=draw).to(device, dtype) for _ in range(3))

    def attend(name: str, first_query: int) -> torch.Tensor:
        kernel = AttentionBackendName(DISPATCHER_NAMES[name])
        return dispatch_attention_fn(query[:, first_query:], key, value, backend=kernel)

    try:
        with torch.no_grad(), deterministic_kernels():
            for first_query in (0, text_rows):
                ours = attend(backend, first_query)
                if not torch.equal(ours, attend(backend, first_query)):
                    return "it does not give the same bits twice"
                difference = relative_difference(ours, attend("native", first_query))
                if not difference <= PROBE_TOLERANCE:  # also true for NaN
                    return f"it differs from the native kernel by {100 * difference:.2g} %"
    except Exception as error:  # whatever a kernel does, there is another one, as long as there is a device
        if is_device_lost(error):
            raise
        return in_one_line(error)
    return ""


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Root mean square of the difference over that of ``theirs``."""
    return ((ours.float() - theirs.float()).square().mean() / theirs.float().square().mean()).sqrt().item()


def pick_attention(
    asked: str,
    *,
    heads: int,
    head_dim: int,
    text_rows: int,
    device: torch.device,
    dtype: torch.dtype,
    kernel_notes: Path | None = None,
) -> Acceleration:
    """Choose an attention kernel and try it.

    ``kernel_notes``: the folder for notes of kernels that broke the device, which are not tried again.  Raises
    `ModelError` for an unknown name, and the error that leaves the device unusable, noted.
    """
    about = describe_device(device)
    backend, reason = choose_attention(asked, about, dtype)
    if backend == "native":
        return Acceleration(backend, False, reason)
    note = note_of(kernel_notes, backend, about.name)
    if note is not None and note.is_file():
        return Acceleration("native", False, f"{backend} broke {about.name} before; remove {note} to try it again")
    shape = {"heads": heads, "head_dim": head_dim, "text_rows": text_rows}
    try:
        problem = probe_attention(backend, **shape, device=device, dtype=dtype)
    except Exception as error:
        write_note(note, in_one_line(error))
        raise
    if problem:
        return Acceleration("native", False, f"{backend} was tried and is not used: {problem}")
    return Acceleration(backend, False, reason, note)


def note_broken_device(acceleration: Acceleration, error: Exception) -> None:
    """After a job that ended with ``error``: where that leaves the device unusable, forbid the attention kernel that
    was in use, so that the next process tries the job without it.

    Whether it is to blame cannot be known: CUDA tells of such errors late, and wherever it is asked next.
    """
    if acceleration.attention_backend != "native" and is_device_lost(error):
        log.warning(
            "the attention backend %s is not used any more, because the device broke under it (%s); remove %s to try "
            "it again",
            acceleration.attention_backend,
            in_one_line(error),
            acceleration.note,
        )
        write_note(acceleration.note, in_one_line(error))


def accelerate(
    transformer: Accelerated,
    *,
    device: torch.device,
    dtype: torch.dtype,
    profile: str,
    attention_backend: str = "auto",
    compile_blocks: bool = False,
    compiler: str | Callable = "inductor",
    kernel_notes: Path | None = None,
    text_rows: int = 0,
) -> Acceleration:
    """Set a loaded transformer's attention kernel and, where asked for, have its blocks compiled when they first run.

    ``profile``: see `memory`; blocks that come and go one by one are not compiled.  ``compiler``: torch.compile's
    backend.  ``text_rows`` 0: as the model's configuration says.  ``kernel_notes``, errors: see `pick_attention`.
    """
    config = transformer.config
    shape = {"heads": config.num_attention_heads, "head_dim": config.attention_head_dim}
    shape["text_rows"] = text_rows or config.max_text_seq_length
    chosen = pick_attention(attention_backend, **shape, device=device, dtype=dtype, kernel_notes=kernel_notes)
    _use_attention(transformer, chosen.attention_backend)
    level = logging.INFO if attention_backend in ("auto", chosen.attention_backend) else logging.WARNING
    log.log(level, "attention backend %s: %s", chosen.attention_backend, chosen.reason)
    if not compile_blocks:
        return chosen
    if profile == "group_offload":
        problem = "the profile group_offload brings its weights block by block"
    else:
        problem = _try_compiler(device, compiler)
    if problem:
        log.warning("the transformer's blocks are not compiled: %s", problem)
        return chosen
    # One program per shape: a program for all shapes would be a slower one, and clips come in few sizes.
    _allow_many_programs()
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=compiler)
    return replace(chosen, compiled=True)


def undo_compilation(transformer: Accelerated, acceleration: Acceleration) -> Acceleration:
    """Run the blocks as they are from now on."""
    for module in transformer.modules():
        module._compiled_call_impl = None
    return replace(acceleration, compiled=False)


def set_compilation_aside(transformer: Accelerated, acceleration: Acceleration) -> Acceleration:
    """Run the blocks as they are until `take_compilation_up`, where they cannot run compiled for a while."""
    if not acceleration.compiled:
        return acceleration
    compiled = [(module, module._compiled_call_impl) for module in transformer.modules()]
    aside = tuple((module, call) for module, call in compiled if call is not None)
    return replace(undo_compilation(transformer, acceleration), set_aside=aside)


def take_compilation_up(acceleration: Acceleration) -> Acceleration:
    """Undo `set_compilation_aside`."""
    for module, call in acceleration.set_aside:
        module._compiled_call_impl = call
    return replace(acceleration, compiled=True, set_aside=()) if acceleration.set_aside else acceleration


def without_what_failed(
    transformer: Accelerated, acceleration: Acceleration, error: Exception
) -> Acceleration | None:
    """After a forward pass that ended with ``error``: leave out what may be to blame → what is in use now.

    None where another try is pointless: nothing is left to leave out, or the error would come again, which are our own,
    too little memory, and a device that is beyond use.  Compilation goes first, for it may end in errors of any kind;
    an attention kernel that cannot run a clip's shape ends in a RuntimeError.
    """
    if isinstance(error, DasError) or is_out_of_memory(error) or is_device_lost(error):
        return None
    reason = in_one_line(error)
    if acceleration.compiled:
        log.warning("the transformer's blocks are not compiled any more, because that failed: %s", reason)
        return undo_compilation(transformer, acceleration)
    if acceleration.attention_backend != "native" and isinstance(error, RuntimeError):
        log.warning("the attention backend %s is not used any more: %s", acceleration.attention_backend, reason)
        _use_attention(transformer, "native")
        return replace(acceleration, attention_backend="native")
    return None


def predict(model: Any, **inputs: Any) -> torch.Tensor:
    """One forward pass of ``model.transformer``, without an acceleration that fails: ``model.acceleration`` is set to
    what is in use then."""
    while True:
        try:
            return model.transformer(**inputs, return_dict=False)[0]
        except Exception as error:
            simpler = without_what_failed(model.transformer, model.acceleration, error)
            if simpler is None:
                raise
        model.acceleration = simpler


def doctor(device: str | torch.device = "auto") -> Acceleration:
    """What "auto" would choose here for the full model, tried on the device."""
    place = pick_device(device)
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    try:
        return pick_attention("auto", **FULL_MODEL, device=place, dtype=dtype)
    except RuntimeError as error:  # the device is beyond use, and says so to whoever asks next
        return Acceleration("native", False, f"cudnn broke {place}: {in_one_line(error)}")


def _use_attention(transformer: Accelerated, backend: str) -> None:
    """Set every block's kernel.

    diffusers 0.42's `set_attention_backend` would also set it for every other model of the process.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName

    for processor in transformer.attn_processors.values():
        processor._attention_backend = AttentionBackendName(DISPATCHER_NAMES[backend])


def _allow_many_programs() -> None:
    """Lift dynamo's limits of programs per block and in all, whose names were others before PyTorch 2.7."""
    config = torch._dynamo.config
    for name, older in (
        ("recompile_limit", "cache_size_limit"),
        ("accumulated_recompile_limit", "accumulated_cache_size_limit"),
    ):
        name = name if hasattr(config, name) else older
        setattr(config, name, max(getattr(config, name), MAX_PROGRAMS))


def _try_compiler(device: torch.device, compiler: str | Callable) -> str:
    """Compile and run a line of code on ``device`` → what is wrong, "" if nothing: the compiler's own tools may be
    missing."""
    try:
        with torch.no_grad():
            line = torch.compile(lambda x: x.sin() + 1, backend=compiler, fullgraph=True, dynamic=False)
            line(torch.ones(8, device=device)).sum().item()
    except Exception as error:  # whatever a compiler does, there is a way without it
        return in_one_line(error)
    return ""


def in_one_line(error: Exception) -> str:
    """An error's kind and what it says first; compilers name the real one in their second line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2]) or 'no message'}"
