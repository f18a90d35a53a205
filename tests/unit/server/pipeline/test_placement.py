# SPDX-License-Identifier: GPL-3.0-or-later
"""Loaded models in their places: a device that fills up while a model is loaded, and the next smaller profile."""

import pytest
import torch

from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline import memory, placement
from das_server.pipeline.cogvideox.needs import NEEDS
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.memory import RESERVE_BYTES, MemoryPlan
from das_server.pipeline.prompt import PromptCache
from tests.support.models import gradient_clip

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # never touched: free memory is given
VIDEO, PICTURE = gradient_clip(9, 48, 32)


@pytest.fixture
def pipeline(tmp_path):
    return DasPipeline.from_pretrained(
        PREVIEW_FOLDER, device="cpu", profile="resident", prompt_cache=PromptCache(tmp_path)
    )


def fill_up(pipeline, times):
    """The transformer does not fit the device so many times: PyTorch's error, in the middle of the move."""
    left = [times]

    class OnFullDevice(type(pipeline.transformer)):
        def to(self, *arguments, **options):
            if left[0] and arguments == (pipeline.device,):
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return super().to(*arguments, **options)

    pipeline.transformer.__class__ = OnFullDevice


@pytest.mark.parametrize(("times", "profile"), [(0, "resident"), (1, "drop_text_encoder"), (2, "group_offload")])
def test_device_that_fills_up_while_loading_gets_a_smaller_profile(pipeline, times, profile):
    request = {"num_inference_steps": 1, "guidance_scale": 1.0}
    expected = pipeline("", VIDEO, PICTURE, **request).frames
    fill_up(pipeline, times)
    plan = MemoryPlan("resident", CPU, 0, 0, "")
    plan = placement.place(pipeline, plan, NEEDS.at_home(PREVIEW_FOLDER, torch.float32, True), may_shrink=True)
    assert plan.profile == pipeline.profile == profile
    assert (pipeline("", VIDEO, PICTURE, **request).frames == expected).all()


def test_profile_that_was_asked_for_is_not_replaced(pipeline):
    fill_up(pipeline, 1)
    needs = NEEDS.at_home(PREVIEW_FOLDER, torch.float32, True)
    with pytest.raises(torch.OutOfMemoryError):
        placement.place(pipeline, MemoryPlan("resident", CPU, 0, 0, ""), needs, may_shrink=False)


def test_smaller_profile_needs_room_for_what_rests_in_host_memory(pipeline, monkeypatch):
    pipeline.prompt_encoder.encode(["a boat"], pipeline.device)
    pipeline.device = GPU  # never touched: free memory is given
    needs = pipeline.needs()
    fits_drop, fits_offload = needs.host_bytes("drop_text_encoder"), needs.host_bytes("group_offload")
    assert fits_offload < fits_drop  # of this model

    def chosen(host_free):
        monkeypatch.setattr(memory, "free_memory", lambda device: host_free)
        return placement.smaller_profile(pipeline)

    assert chosen(fits_drop) == "drop_text_encoder"
    assert chosen(fits_drop - 1) == chosen(fits_offload) == "group_offload"
    assert chosen(fits_offload - 1) == ""


def test_profile_that_did_not_suffice_is_tried_again_with_more_memory_only(pipeline, monkeypatch):
    pipeline.use_profile("group_offload")
    assert not placement.has_room_again(pipeline, "resident", 0)  # on a CPU no profile frees anything
    pipeline.device = GPU  # never touched: free memory is given
    needs = pipeline.needs()
    fits = needs.peak_bytes("resident") + RESERVE_BYTES - needs.resting_bytes("group_offload")

    def again(free, short):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        return placement.has_room_again(pipeline, "resident", short)

    assert again(fits, 0) and not again(fits - 1, 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: fits)
    short = placement.room_for_model(pipeline)
    assert not again(fits, short) and not again(fits + RESERVE_BYTES - 1, short)
    assert again(fits + RESERVE_BYTES, short)
