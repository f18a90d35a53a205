# SPDX-License-Identifier: GPL-3.0-or-later
"""A loaded pipeline's parts in their places, by the profiles of `memory`, and again where that did not suffice."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch

from das_blender_addon.errors import OutOfMemory

from . import memory
from .base import LoadedModel
from .device_errors import is_out_of_device_memory
from .memory import ON_DEVICE, RESERVE_BYTES, MemoryNeeds, MemoryPlan
from .slabs import let_pinned_memory_go
from .streaming import StreamedBlocks

log = logging.getLogger(__name__)


def load_where_it_goes(
    load: Callable[..., torch.nn.Module], plan: MemoryPlan, *, by_the_host: bool = False
) -> torch.nn.Module:
    """Load a transformer, by ``load(device=…)``, to where ``plan`` has it stay: the device, without a stay in the
    machine's own memory, except where blocks are streamed or, ``by_the_host``, changed before they go there.

    A device that has filled up meanwhile is left to `place`.
    """
    on_host = torch.device("cpu")
    if by_the_host or plan.profile not in ON_DEVICE[:-1]:
        return load(device=on_host)
    try:
        return load(device=plan.device)
    except Exception as error:
        if not is_out_of_device_memory(error):
            raise
        log.warning("%s has filled up while the model was loaded", plan.device)
    _let_go()
    return load(device=on_host)


def place(pipeline: LoadedModel, plan: MemoryPlan, needs: MemoryNeeds, *, may_shrink: bool) -> MemoryPlan:
    """`apply_plan`; where the device has filled up since, and ``may_shrink``, by a smaller profile that fits now → the
    plan in use.

    Raises `OutOfMemory` when none does, else PyTorch's own error.
    """
    while True:
        try:
            apply_plan(pipeline, plan.profile)
            return plan
        except Exception as error:
            if not may_shrink or plan.profile not in ON_DEVICE[:-1] or not is_out_of_device_memory(error):
                raise
            log.warning("%s has filled up since the profile %s was chosen", pipeline.device, plan.profile)
        # Here, outside the handler, nothing holds what has arrived already.
        pipeline.transformer.to("cpu")
        pipeline.vae.to("cpu")
        _let_go()
        plan = memory.plan_memory(needs, pipeline.device, below=plan.profile)
        log.info("%s", plan.reason)


def apply_plan(pipeline: LoadedModel, profile: str) -> None:
    """Place a loaded pipeline's parts as ``profile`` says, on ``pipeline.device``."""
    device = pipeline.device
    pipeline.profile = profile
    pipeline.prompt_encoder.keep_loaded = profile == "resident"
    pipeline.prompt_encoder.offload = profile == "group_offload"
    if pipeline.streamed is not None:
        pipeline.streamed.close()
        pipeline.streamed = None
    if profile == "group_offload":
        # From where they are: nothing is in the machine's own memory twice.
        pipeline.streamed = StreamedBlocks(pipeline.transformer, pipeline.transformer.streamed_units(), device)
    else:
        pipeline.transformer.to(device)
        let_pinned_memory_go()
    pipeline.vae.to(device)


def smaller_profile(pipeline: LoadedModel, error: Exception | None = None) -> str:
    """The next of the pipeline's smaller profiles that frees something and that this machine has room for; "" when
    none is left.

    ``error``: what a clip ended with, None when not known.  Without a text encoder that is loaded, drop_text_encoder
    frees nothing, unless `memory.check_room` has refused the clip because the text encoder was still to come.
    """
    if pipeline.profile not in ON_DEVICE:
        return ""
    has_encoder = pipeline.prompt_encoder.model is not None or isinstance(error, OutOfMemory)
    for smaller in ON_DEVICE[ON_DEVICE.index(pipeline.profile) + 1 :]:
        if smaller == "drop_text_encoder" and not has_encoder:
            continue
        rests = pipeline.needs().host_bytes(smaller) if pipeline.device.type != "cpu" else 0
        if rests <= memory.free_memory(torch.device("cpu")):
            return smaller
    return ""


def room_for_model(pipeline: LoadedModel) -> int:
    """Bytes of the device that the pipeline has or could have."""
    return memory.free_memory(pipeline.device) + pipeline.needs().resting_bytes(pipeline.profile)


def has_working_room(pipeline: LoadedModel) -> bool:
    """Whether a clip of the model's own size, and a text encoder that is still to come and stays, have room now."""
    needs = pipeline.needs()
    is_to_come = pipeline.profile == "resident" and pipeline.prompt_encoder.model is None
    return needs.working + (needs.text_encoder if is_to_come else 0) <= memory.free_memory(pipeline.device)


def has_room_again(pipeline: LoadedModel, profile: str, short: int) -> bool:
    """Whether a profile that did not suffice once, with ``short`` bytes for the model, is worth another try: it fits by
    the plan, and there is more memory than then by as much as is left alone otherwise."""
    if pipeline.device.type == "cpu":
        return False  # there no profile frees anything to speak of
    room, needs = room_for_model(pipeline), pipeline.needs()
    host_free = memory.free_memory(torch.device("cpu")) + needs.host_bytes(pipeline.profile)
    fits = needs.peak_bytes(profile) <= room - RESERVE_BYTES and needs.host_bytes(profile) <= host_free
    return fits and room >= short + RESERVE_BYTES


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
