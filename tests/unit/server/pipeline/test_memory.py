# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory profiles: what is chosen on which card, what is refused, and what `doctor` says."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from das_blender_addon.errors import ModelError, OutOfMemory
from das_server.models.float8 import use_float8
from das_server.models.registry import GIBIBYTE, PREVIEW_FOLDER, model_spec
from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline import memory
from das_server.pipeline.cogvideox.needs import NEEDS, decoding_bytes
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.doctor import doctor
from das_server.pipeline.memory import PROFILES, RESERVE_BYTES, MemoryNeeds, plan_memory
from das_server.pipeline.needs import Clip
from das_server.pipeline.prompt import PromptCache
from das_server.pipeline.slabs import bytes_of, pinned_bytes, plan_slabs
from tests.bench.denoise_checkpoint import FULL as FULL_SIZE
from tests.bench.denoise_checkpoint import TRANSFORMER, write_checkpoint

GPU = torch.device("cuda")  # never touched: free memory is given
VAE = {
    "block_out_channels": [128, 256, 256, 512],
    "temporal_compression_ratio": 4,
    "sample_height": 480,
    "sample_width": 720,
}

# The published model in bfloat16, as `test_needs_are_those_of_the_true_shapes` finds it.
FULL = MemoryNeeds(
    transformer=16_368_019_584,
    blocks=16_203_565_056,
    largest_block=283_276_288,
    slabs=16_743_661_568,
    converted_transformer=0,
    text_encoder=9_524_621_312,
    converted_text_encoder=0,
    vae=431_167_814,
    tables=283_901_952,
    encoding=1_871_078_400,
    denoising=4_368_629_760,
    decoding=4_184_524_800,
)


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory):
    """A folder with the published model's configurations and headers, and no weights."""
    return write_checkpoint(FULL_SIZE, tmp_path_factory.mktemp("full"), torch.bfloat16)


@pytest.mark.parametrize(
    ("card_gib", "profile"),
    [(80, "resident"), (40, "resident"), (23.5, "drop_text_encoder"), (15.5, "group_offload"), (11.6, "group_offload")],
)
def test_profile_follows_the_card(card_gib, profile):
    plan = plan_memory(FULL, GPU, free=int(card_gib * GIBIBYTE), host_free=64 * GIBIBYTE)
    assert plan.profile == profile
    assert plan.needed_bytes <= plan.free_bytes
    assert profile in plan.reason


def test_needs_are_those_of_the_true_shapes(full_checkpoint):
    assert NEEDS.at_home(full_checkpoint, torch.bfloat16, True) == FULL


def test_card_of_12_gib_works_in_a_machine_of_32(full_checkpoint):
    """By the plan's own arithmetic, with what PyTorch's allocator makes of the pieces that are pinned."""
    with torch.device("meta"):
        model = DasTransformer3DModel(**(TRANSFORMER | FULL_SIZE.transformer)).to(torch.bfloat16)
    units = [sorted((w for m in unit for w in m.parameters()), key=bytes_of, reverse=True)
             for unit in model.streamed_units()]  # fmt: skip
    sizes = [bytes_of(weight) for unit in units for weight in unit]
    slabs, places = plan_slabs(sizes)
    assert sum(map(pinned_bytes, slabs)) == sum(slabs) == FULL.slabs == FULL.host_bytes("group_offload")
    assert sum(map(pinned_bytes, sizes)) > 1.7 * FULL.slabs  # tensor by tensor
    assert FULL.slabs < 1.04 * sum(sizes) and FULL.host_bytes("group_offload") <= 20 * GIBIBYTE
    ends = {}
    for size, (slab, offset) in zip(sizes, places, strict=True):
        assert offset >= ends.get(slab, 0) and offset + size <= slabs[slab]
        ends[slab] = offset + size
    plan = plan_memory(FULL, GPU, free=int(11.6 * GIBIBYTE), host_free=27 * GIBIBYTE)
    assert plan.profile == "group_offload"


def test_float8_is_planned_as_it_is_loaded(full_checkpoint):
    exact, float8 = FULL, NEEDS.at_home(full_checkpoint, torch.bfloat16, True, float8=True)
    assert 8.6 < float8.transformer / GIBIBYTE < 9.0
    assert float8.slabs < 0.6 * exact.slabs and float8.largest_block < 0.61 * exact.largest_block


def test_needs_of_a_loaded_model_are_those_of_its_files(tmp_path):
    pipeline = DasPipeline.from_pretrained(
        PREVIEW_FOLDER, device="cpu", profile="resident", prompt_cache=PromptCache(tmp_path)
    )
    clip = Clip(9, 96, 64, False)
    on_disk = NEEDS.measure(PREVIEW_FOLDER, torch.float16, clip).transformer
    for float8 in (False, True):
        if float8:
            use_float8(pipeline.transformer)
        needs = NEEDS.measure(PREVIEW_FOLDER, torch.float32, clip, float8=float8)
        loaded, named = NEEDS.of(pipeline, clip), dict(pipeline.transformer.named_buffers())
        computed = sum(bytes_of(named[name]) for name in named.keys() - pipeline.transformer.state_dict().keys())
        assert needs.converted_transformer == 2 * on_disk  # of float16
        assert loaded == replace(needs, transformer=needs.transformer + computed, converted_transformer=0)
        pipeline.use_profile("group_offload")
        assert pipeline.streamed.device_bytes() + needs.vae == loaded.resting_bytes("group_offload")


def test_profiles_shrink():
    sizes = [FULL.peak_bytes(profile) for profile in PROFILES[:3]]
    assert sizes == sorted(sizes, reverse=True)


def test_table_of_the_full_model_agrees_with_the_formulas():
    """The registry's figures, for when the files are not there, lie at most 30 % above what the formulas say."""
    for profile in PROFILES[:3]:
        assert 1.0 <= model_spec("das-cogvideox-5b").memory_bytes[profile] / FULL.peak_bytes(profile) <= 1.3, profile
        expected = model_spec("das-cogvideox-5b").host_bytes.get(profile, 0)
        assert FULL.host_bytes(profile) <= expected <= 1.3 * FULL.host_bytes(profile), profile


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
    plan = plan_memory(FULL, GPU, profile="group_offload", free=card, host_free=exactly)
    assert plan.profile == "group_offload"
    with pytest.raises(OutOfMemory, match=r"group_offload keeps 15.6 GiB in this machine's own memory, .* no profile"):
        plan_memory(FULL, GPU, profile="group_offload", free=card, host_free=exactly - 1)
    with pytest.raises(OutOfMemory, match="drop_text_encoder keeps 15.6 GiB .* use the profile resident"):
        plan_memory(FULL, GPU, profile="drop_text_encoder", free=80 * GIBIBYTE, host_free=8 * GIBIBYTE)


def test_text_encoder_whose_files_have_another_dtype_is_in_host_memory_on_its_way():
    converted = replace(FULL, converted_text_encoder=2 * FULL.text_encoder)
    for profile in ("resident", "drop_text_encoder"):
        assert converted.host_bytes(profile) == FULL.host_bytes(profile) + 2 * FULL.text_encoder
    assert plan_memory(FULL, GPU, free=80 * GIBIBYTE, host_free=9 * GIBIBYTE).profile == "resident"
    with pytest.raises(OutOfMemory, match="resident keeps 17.7 GiB in this machine's own memory"):
        plan_memory(converted, GPU, profile="resident", free=80 * GIBIBYTE, host_free=9 * GIBIBYTE)


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
    clip = Clip(9, 96, 64, False, batch=1)
    needs = NEEDS.of(pipeline, clip)
    needed = max(needs.denoising, needs.decoding)
    text_encoder = pipeline.prompt_encoder.size_bytes()
    weights = load_file(PREVIEW_FOLDER / "text_encoder" / "model.safetensors")
    assert text_encoder == sum(4 * weight.numel() for weight in weights.values())

    def refused(free):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        try:
            NEEDS.check_room(pipeline, clip)
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
    clip = Clip(9, 96, 64, False)
    needs = NEEDS.measure(PREVIEW_FOLDER, torch.float16, clip)
    on_disk = (PREVIEW_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert abs(needs.transformer - on_disk) < 30_000  # the file's header
    assert needs.transformer > needs.blocks > needs.largest_block > 0
    assert NEEDS.measure(PREVIEW_FOLDER, torch.float32, clip).vae == 2 * needs.vae


def test_tiling_needs_less():
    tiled, whole = (decoding_bytes(VAE, torch.bfloat16, Clip(49, 720, 480, tiling)) for tiling in (True, False))
    assert tiled < whole / 2


@pytest.mark.parametrize(("card_gib", "profile", "tiled"), [
    (80, "resident", (False, False)), (45, "resident", (False, False)), (40, "resident", (False, True)),
    (31, "resident", (True, True)), (26, "drop_text_encoder", (False, True)), (24, "drop_text_encoder", (True, True)),
    (16, "group_offload", (True, True)), (12, "group_offload", (True, True)),
])  # fmt: skip
def test_vae_works_whole_where_the_planned_profile_leaves_room(full_checkpoint, card_gib, profile, tiled):
    plan = plan_memory(FULL, GPU, free=int(card_gib * GIBIBYTE), host_free=64 * GIBIBYTE)
    assert (plan.profile, NEEDS.must_tile(full_checkpoint, torch.bfloat16, plan)) == (profile, tiled)
    on_cpu = replace(plan, device=torch.device("cpu"))
    assert NEEDS.must_tile(full_checkpoint, torch.bfloat16, on_cpu) == (True, True)


def test_doctor_speaks_of_every_model(tmp_path):
    reports = {report.model: report for report in doctor(tmp_path, device="cpu")}
    assert reports["das-preview"].installed and reports["das-preview"].profile == "cpu"
    assert not reports["das-cogvideox-5b"].installed
    for report in reports.values():
        assert "needs" in report.reason and report.needs["cpu"] > 0
