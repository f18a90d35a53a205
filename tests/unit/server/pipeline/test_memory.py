# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory profiles: what is chosen on which card, what is refused, and what `doctor` says."""

import pytest
import torch
from safetensors.torch import load_file

from das_blender_addon.errors import ModelError, OutOfMemory
from das_server.models.registry import GIBIBYTE, PREVIEW_FOLDER, model_spec
from das_server.pipeline import memory
from das_server.pipeline.doctor import doctor
from das_server.pipeline.memory import PROFILES, RESERVE_BYTES, MemoryNeeds, plan_memory
from das_server.pipeline.needs import check_room, decoding_bytes, denoising_bytes, measure_needs
from das_server.pipeline.pipeline import DasPipeline
from das_server.pipeline.prompt import PromptCache

GPU = torch.device("cuda")  # never touched: free memory is given
TRANSFORMER = {"num_attention_heads": 48, "attention_head_dim": 64, "patch_size": 2, "max_text_seq_length": 226}
VAE = {
    "block_out_channels": [128, 256, 256, 512],
    "temporal_compression_ratio": 4,
    "sample_height": 480,
    "sample_width": 720,
}
CLIP = (torch.bfloat16, 49, 720, 480)

# The published 5B model in bfloat16: 8.129 B parameters, 60 blocks of 132.2 M, text encoder 4.762 B, VAE 215.6 M.
FULL = MemoryNeeds(
    transformer=2 * 8_184_000_000,
    blocks=2 * (60 * 132_200_000 + 18 * 9_440_256),
    largest_block=2 * 132_200_000,
    text_encoder=2 * 4_762_000_000,
    vae=2 * 215_600_000,
    denoising=denoising_bytes(TRANSFORMER, VAE, *CLIP),
    decoding=decoding_bytes(VAE, *CLIP, True),
)


@pytest.mark.parametrize(
    ("card_gib", "profile"),
    [(80, "resident"), (40, "resident"), (23.5, "drop_text_encoder"), (15.5, "group_offload"), (11.6, "group_offload")],
)
def test_profile_follows_the_card(card_gib, profile):
    plan = plan_memory(FULL, GPU, free=int(card_gib * GIBIBYTE), host_free=64 * GIBIBYTE)
    assert plan.profile == profile
    assert plan.needed_bytes <= plan.free_bytes
    assert profile in plan.reason


def test_profiles_shrink():
    sizes = [FULL.peak_bytes(profile) for profile in PROFILES[:3]]
    assert sizes == sorted(sizes, reverse=True)


def test_table_of_the_full_model_agrees_with_the_formulas():
    """The registry's figures, for when the files are not there, lie at most 30 % above what the formulas say."""
    for profile in PROFILES[:3]:
        assert 1.0 <= model_spec("das-cogvideox-5b").memory_bytes[profile] / FULL.peak_bytes(profile) <= 1.3, profile


def test_profile_that_cannot_fit_names_one_that_does():
    with pytest.raises(OutOfMemory, match="resident needs .* use the profile drop_text_encoder"):
        plan_memory(FULL, GPU, profile="resident", free=24 * GIBIBYTE, host_free=64 * GIBIBYTE)
    with pytest.raises(OutOfMemory, match="use the profile group_offload"):
        plan_memory(FULL, GPU, profile="drop_text_encoder", free=16 * GIBIBYTE, host_free=64 * GIBIBYTE)
    with pytest.raises(OutOfMemory, match="drop_text_encoder, or the smallest that fits, group_offload"):
        plan_memory(FULL, GPU, profile="resident", free=24 * GIBIBYTE, host_free=64 * GIBIBYTE)
    with pytest.raises(OutOfMemory, match="group_offload needs .* use the profile cpu"):
        plan_memory(FULL, GPU, profile="group_offload", free=2 * GIBIBYTE, host_free=64 * GIBIBYTE)
    with pytest.raises(OutOfMemory, match="no profile fits"):
        plan_memory(FULL, GPU, free=2 * GIBIBYTE, host_free=8 * GIBIBYTE)


def test_reserve_is_kept():
    exactly = FULL.peak_bytes("resident")
    assert plan_memory(FULL, GPU, free=exactly + RESERVE_BYTES, host_free=0).profile == "resident"
    less = plan_memory(FULL, GPU, free=exactly + RESERVE_BYTES - 1, host_free=64 * GIBIBYTE)
    assert less.profile == "drop_text_encoder"


def test_profiles_that_rest_in_host_memory_need_it():
    """A 12 GB card in a machine with little memory of its own: refused before anything is read."""
    card = int(11.6 * GIBIBYTE)
    exactly = FULL.host_bytes("group_offload")
    assert exactly == FULL.transformer + FULL.text_encoder
    plan = plan_memory(FULL, GPU, profile="group_offload", free=card, host_free=exactly)
    assert plan.profile == "group_offload"
    with pytest.raises(OutOfMemory, match=r"group_offload keeps 24.1 GiB in this machine's own memory, .* no profile"):
        plan_memory(FULL, GPU, profile="group_offload", free=card, host_free=exactly - 1)
    with pytest.raises(OutOfMemory, match="drop_text_encoder keeps 15.6 GiB .* use the profile resident"):
        plan_memory(FULL, GPU, profile="drop_text_encoder", free=80 * GIBIBYTE, host_free=8 * GIBIBYTE)


def test_host_memory_is_not_counted_twice_where_it_is_the_device():
    needed = FULL.peak_bytes("group_offload") + RESERVE_BYTES
    plan = plan_memory(FULL, torch.device("cpu"), profile="group_offload", host_free=needed)
    assert plan.profile == "group_offload"


def test_plan_below_a_profile_is_a_smaller_one_of_the_device():
    room = {"free": 80 * GIBIBYTE, "host_free": 64 * GIBIBYTE}
    assert plan_memory(FULL, GPU, below="resident", **room).profile == "drop_text_encoder"
    assert plan_memory(FULL, GPU, below="drop_text_encoder", **room).profile == "group_offload"
    assert plan_memory(FULL, GPU, below="resident", **room | {"free": 12 * GIBIBYTE}).profile == "group_offload"
    with pytest.raises(OutOfMemory, match="group_offload needs"):
        plan_memory(FULL, GPU, below="resident", **room | {"free": GIBIBYTE})


def test_cpu_is_chosen_where_the_card_is_too_small():
    plan = plan_memory(FULL, GPU, free=2 * GIBIBYTE, host_free=64 * GIBIBYTE)
    assert plan.profile == "cpu" and plan.device.type == "cpu"


@pytest.mark.parametrize("device", ["nonsense", "mps", "cuda:99"])
def test_device_that_is_not_there_is_refused(tmp_path, device):
    with pytest.raises(ModelError, match="device"):
        doctor(tmp_path, device=device)
    with pytest.raises(ModelError, match="device"):
        DasPipeline.from_pretrained(PREVIEW_FOLDER, device=device)


def test_request_too_large_names_only_profiles_with_room(tmp_path, monkeypatch):
    """The text encoder of the resident profile counts although it is still to come."""
    pipeline = DasPipeline.from_pretrained(
        PREVIEW_FOLDER, device="cpu", profile="resident", prompt_cache=PromptCache(tmp_path)
    )
    pipeline.device = GPU  # never touched: free memory is given
    clip = {"num_frames": 9, "width": 96, "height": 64, "vae_tiling": False, "batch": 1}
    needed = max(
        denoising_bytes(pipeline.transformer.config, pipeline.vae.config, pipeline.dtype, 9, 96, 64, 1),
        decoding_bytes(pipeline.vae.config, pipeline.dtype, 9, 96, 64, False),
    )
    text_encoder = pipeline.prompt_encoder.size_bytes()
    weights = load_file(PREVIEW_FOLDER / "text_encoder" / "model.safetensors")
    assert text_encoder == sum(4 * weight.numel() for weight in weights.values())

    def refused(free):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        try:
            check_room(pipeline, **clip)
        except OutOfMemory as error:
            return error.message
        return ""

    assert not refused(needed + text_encoder)
    assert "drop_text_encoder, or the smallest that fits, group_offload" in refused(needed + text_encoder - 1)
    assert "with the profile group_offload" in refused(needed - 1)
    assert "smaller size" in refused(0)
    pipeline.profile = "drop_text_encoder"
    assert not refused(needed)
    assert "with the profile group_offload" in refused(needed - 1)


def test_cpu_is_chosen_without_an_accelerator():
    assert plan_memory(FULL, torch.device("cpu"), host_free=64 * GIBIBYTE).profile == "cpu"
    with pytest.raises(OutOfMemory, match="cpu"):
        plan_memory(FULL, torch.device("cpu"), host_free=GIBIBYTE)


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ModelError, match="group_offload"):
        plan_memory(FULL, GPU, profile="tiny", free=0, host_free=0)


def test_weights_are_measured_from_the_files():
    clip = {"num_frames": 9, "width": 96, "height": 64, "vae_tiling": False}
    needs = measure_needs(PREVIEW_FOLDER, torch.float16, **clip)
    on_disk = (PREVIEW_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert abs(needs.transformer - on_disk) < 30_000  # the file's header
    assert needs.transformer > needs.blocks > needs.largest_block > 0
    assert measure_needs(PREVIEW_FOLDER, torch.float32, **clip).vae == 2 * needs.vae


def test_tiling_needs_less():
    assert decoding_bytes(VAE, *CLIP, True) < decoding_bytes(VAE, *CLIP, False) / 2


def test_doctor_speaks_of_every_model(tmp_path):
    reports = {report.model: report for report in doctor(tmp_path, device="cpu")}
    assert reports["das-preview"].installed and reports["das-preview"].profile == "cpu"
    assert not reports["das-cogvideox-5b"].installed
    for report in reports.values():
        assert "needs" in report.reason and report.needs["cpu"] > 0
