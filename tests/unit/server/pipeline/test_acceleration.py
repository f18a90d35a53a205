# SPDX-License-Identifier: GPL-3.0-or-later
"""Attention kernels and compilation: what is chosen on which device, and that nothing that fails costs a job."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.config import ATTENTION_BACKENDS as CONFIGURABLE
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline import acceleration, memory
from das_server.pipeline.acceleration import (
    ATTENTION_BACKENDS,
    Acceleration,
    DeviceDescription,
    accelerate,
    choose_attention,
    describe_device,
    pick_attention,
    probe_attention,
    relative_difference,
    undo_compilation,
)
from das_server.pipeline.cogvideox import warm_up as warm_up_module
from das_server.pipeline.cogvideox.needs import NEEDS, clip_at_home
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.prompt import PromptCache
from tests.parity.golden_data import PIPELINE_MODEL
from tests.support.models import gradient_clip, output_of, tiny_inputs, tiny_transformer

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SHAPE = {"heads": 2, "head_dim": 64, "text_rows": 226}
ATOL = 1e-5
VIDEO, PICTURE = gradient_clip(9, 48, 32)


def nvidia(name, major, minor, has_cudnn_attention=True):
    return DeviceDescription("cuda", name, (major, minor), has_cudnn_attention)


H100 = nvidia("H100", 9, 0)


# ── The choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "backend", "words"),
    [
        ("auto", H100, BF16, "cudnn", "faster one on H100 .compute capability 9.0"),
        ("auto", nvidia("B200", 10, 0), BF16, "cudnn", "10.0"),
        ("auto", nvidia("A100", 8, 0), BF16, "native", "not faster on A100"),
        ("auto", nvidia("RTX 4090", 8, 9), BF16, "native", "8.9"),
        ("auto", nvidia("RTX 5090", 12, 0), BF16, "native", "12.0"),
        ("auto", nvidia("H100", 9, 0, False), BF16, "native", "does not offer"),
        ("auto", H100, torch.float32, "native", "float32"),
        ("auto", DeviceDescription("rocm", "MI250"), BF16, "native", "needs an NVIDIA GPU and this is MI250"),
        ("auto", DeviceDescription("cpu", "CPU"), torch.float32, "native", "this is CPU"),
        ("native", H100, BF16, "native", "asked for"),
        ("cudnn", nvidia("A100", 8, 0), BF16, "cudnn", "asked for"),
        ("cudnn", DeviceDescription("cpu", "CPU"), BF16, "native", "needs an NVIDIA GPU"),
    ],
)
def test_kernel_follows_the_device(asked, device, dtype, backend, words):
    chosen, reason = choose_attention(asked, device, dtype)
    assert chosen == backend
    assert re.search(words, reason)


def test_unknown_kernel_names_the_known_ones():
    with pytest.raises(ModelError, match="'flash_3'; use one of auto, native, cudnn"):
        choose_attention("flash_3", H100, BF16)
    assert CONFIGURABLE == ATTENTION_BACKENDS  # the configuration reads them without torch


def test_cpu_describes_itself():
    assert describe_device(CPU) == DeviceDescription("cpu", "CPU", None, False)


# ── The probe ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_native_kernel_agrees_with_itself():
    assert probe_attention("native", **SHAPE, device=CPU, dtype=torch.float32) == ""


def test_kernel_that_this_device_cannot_run_is_said_to_be_so():
    problem = probe_attention("cudnn", **SHAPE, device=CPU, dtype=BF16)
    assert problem.startswith("RuntimeError: ")


def test_kernel_that_cannot_run_is_replaced(monkeypatch):
    """The description of another machine: there cuDNN would be chosen, here it fails."""
    monkeypatch.setattr(acceleration, "describe_device", lambda device: H100)
    chosen = pick_attention("auto", **SHAPE, device=CPU, dtype=BF16)
    assert chosen.attention_backend == "native"
    assert "cudnn was tried and is not used: RuntimeError" in chosen.reason


BROKEN = "CUDA error: an illegal memory access was encountered"


def breaks_the_device(*_, **__):
    raise RuntimeError(BROKEN)


def test_kernel_that_breaks_the_device_is_noted_and_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(acceleration, "describe_device", lambda device: H100)
    monkeypatch.setattr("diffusers.models.attention_dispatch.dispatch_attention_fn", breaks_the_device)
    options = {**SHAPE, "device": CPU, "dtype": BF16}
    with pytest.raises(RuntimeError, match="CUDA error"):  # the process must end
        pick_attention("auto", **options, kernel_notes=tmp_path / "notes")
    (note,) = (tmp_path / "notes").iterdir()
    assert note.name.startswith("cudnn-H100-torch_") and BROKEN in note.read_text()

    for asked in ("auto", "cudnn"):
        chosen = pick_attention(asked, **options, kernel_notes=tmp_path / "notes")
        assert chosen.attention_backend == "native"
        assert f"cudnn broke H100 before; remove {note}" in chosen.reason
    monkeypatch.setattr(acceleration, "describe_device", lambda device: nvidia("B200", 10, 0))
    with pytest.raises(RuntimeError, match="CUDA error"):  # another device is another matter
        pick_attention("auto", **options, kernel_notes=tmp_path / "notes")
    assert acceleration.doctor("cpu").attention_backend == "native"


def test_note_that_cannot_be_kept_hides_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(acceleration, "describe_device", lambda device: H100)
    monkeypatch.setattr("diffusers.models.attention_dispatch.dispatch_attention_fn", breaks_the_device)
    (tmp_path / "notes").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="CUDA error"):
        pick_attention("auto", **SHAPE, device=CPU, dtype=BF16, kernel_notes=tmp_path / "notes")
    assert "cannot be written" in caplog.text


def test_difference_is_relative_and_no_number_agrees_with_nothing():
    values = torch.tensor([3.0, -4.0])
    assert relative_difference(values, values) == 0.0
    assert relative_difference(values * 1.02, values) == pytest.approx(0.02)
    assert not relative_difference(values * float("nan"), values) <= acceleration.PROBE_TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_within_the_tolerance(dtype):
    """The distance of half precision from the exact result is what two honest kernels may differ by."""
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 2, 1003, 64, generator=draw) for _ in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    half = torch.nn.functional.scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype))
    assert relative_difference(half, exact) < acceleration.PROBE_TOLERANCE
    assert relative_difference(exact * 1.02, exact) > acceleration.PROBE_TOLERANCE


# ── In a model ──────────────────────────────────────────────────────────────────────────────────────────────────────


def speed_up(model, **options):
    options = {"device": CPU, "dtype": torch.float32, "profile": "cpu"} | options
    return accelerate(model, **options)


def test_kernel_reaches_every_block_and_no_other_model():
    model, other = tiny_transformer(), tiny_transformer()
    assert speed_up(model).attention_backend == "native"
    assert {processor._attention_backend for processor in model.attn_processors.values()} == {"native"}
    assert {processor._attention_backend for processor in other.attn_processors.values()} == {None}


def test_compiled_blocks_compute_the_same():
    """Through dynamo, without inductor, whose compilation takes minutes on a slow machine (tests/bench)."""
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    torch._dynamo.reset()
    used = speed_up(model, compile_blocks=True, compiler="eager")
    assert used.compiled
    assert (output_of(model, inputs) - expected).abs().max() <= ATOL
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    undone = acceleration.undo_compilation(model, used)
    assert not undone.compiled and undone.attention_backend == "native"
    assert torch.equal(output_of(model, inputs), expected)


@torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2)
def test_blocks_stay_compiled_over_many_sizes_of_clip():
    """PyTorch's own limit of programs is reached after a few."""
    model = tiny_transformer(use_learned_positional_embeddings=False)
    torch._dynamo.reset()
    assert speed_up(model, compile_blocks=True, compiler="eager").compiled
    for num_latent_frames in range(2, 7):
        assert output_of(model, tiny_inputs(model, num_latent_frames=num_latent_frames)).isfinite().all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 5


def broken_compiler(graph, example_inputs):
    raise RuntimeError("no such tool")


def test_compiler_that_does_not_work_is_left_out(caplog):
    model = tiny_transformer()
    with caplog.at_level(logging.WARNING):
        used = speed_up(model, compile_blocks=True, compiler=broken_compiler)
    assert not used.compiled
    assert "not compiled" in caplog.text and "no such tool" in caplog.text
    assert output_of(model, tiny_inputs(model)).isfinite().all()


def test_blocks_that_come_and_go_are_not_compiled(caplog):
    with caplog.at_level(logging.WARNING):
        assert not speed_up(tiny_transformer(), compile_blocks=True, profile="group_offload").compiled
    assert "group_offload" in caplog.text


def test_kernel_that_was_asked_for_and_is_not_there_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        assert speed_up(tiny_transformer(), attention_backend="cudnn").attention_backend == "native"
    assert "needs an NVIDIA GPU" in caplog.text


# ── In a job ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_goes_on_where_compilation_fails_late(tmp_path, caplog):
    """The compiler passed its trial and then fails on the blocks: the clip is the one of an ordinary run."""
    pipeline = DasPipeline.from_pretrained(PREVIEW_FOLDER, device="cpu", prompt_cache=PromptCache(tmp_path))
    request = {"num_inference_steps": 2, "guidance_scale": 1.0}
    expected = pipeline("a boat", VIDEO, PICTURE, **request)
    assert (expected.settings["attention_backend"], expected.settings["compiled"]) == ("native", False)

    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend=broken_compiler)
    pipeline.acceleration = Acceleration("native", True, "")
    result = pipeline("a boat", VIDEO, PICTURE, **request)
    assert np.array_equal(result.frames, expected.frames)
    assert result.settings["compiled"] is False
    assert "not compiled any more" in caplog.text


def test_job_goes_on_where_the_kernel_fails_late(tmp_path, caplog):
    """The kernel passed its trial and then cannot run the clip's shape, as cuDNN's cannot on a CPU."""
    pipeline = DasPipeline.from_pretrained(PREVIEW_FOLDER, device="cpu", prompt_cache=PromptCache(tmp_path))
    request = {"num_inference_steps": 2, "guidance_scale": 1.0}
    expected = pipeline("a boat", VIDEO, PICTURE, **request)

    acceleration._use_attention(pipeline.transformer, "cudnn")
    pipeline.acceleration = Acceleration("cudnn", False, "")
    result = pipeline("a boat", VIDEO, PICTURE, **request)
    assert np.array_equal(result.frames, expected.frames)
    assert result.settings["attention_backend"] == "native"
    assert "cudnn is not used any more: RuntimeError" in caplog.text


@pytest.mark.parametrize("words", [BROKEN, "CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_error_that_would_come_again_costs_no_acceleration(words):
    used = Acceleration("cudnn", True, "")
    assert acceleration.without_what_failed(tiny_transformer(), used, RuntimeError(words)) is None


def test_compilation_is_left_out_before_the_kernel():
    model, error = tiny_transformer(), RuntimeError("cuDNN Frontend error: no valid execution plans built")
    first = acceleration.without_what_failed(model, Acceleration("cudnn", True, ""), error)
    assert (first.attention_backend, first.compiled) == ("cudnn", False)
    second = acceleration.without_what_failed(model, first, error)
    assert (second.attention_backend, second.compiled) == ("native", False)
    assert acceleration.without_what_failed(model, second, error) is None


def test_error_that_compilation_did_not_cause_is_raised(tmp_path):
    pipeline = DasPipeline.from_pretrained(PREVIEW_FOLDER, device="cpu", prompt_cache=PromptCache(tmp_path))
    pipeline.acceleration = Acceleration("native", True, "")
    pipeline.transformer.transformer_blocks = torch.nn.ModuleList([pipeline.transformer.transformer_blocks[0]])
    with pytest.raises(ModelError, match="render without that cache"):
        pipeline("a boat", VIDEO, PICTURE, num_inference_steps=1, guidance_scale=1.0)


def compile_counted(pipeline) -> list:
    """Have its blocks compiled from now on → a list that grows by every graph that is."""
    compiled = []

    def compiler(graph, inputs):
        compiled.append(graph)
        return graph.forward

    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=compiler)
    pipeline.acceleration = Acceleration("native", True, "")
    return compiled


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_first_clip_of_the_models_own_size_finds_its_blocks_compiled(tmp_path, guidance):
    """What is compiled later is another shape of blocks, and no clip's."""
    pipeline = DasPipeline.from_pretrained(PIPELINE_MODEL, device="cpu", prompt_cache=PromptCache(tmp_path))
    compiled = compile_counted(pipeline)
    pipeline.warm_up(2 if guidance > 1 else 1)
    config, warmed = pipeline.transformer.config, len(compiled)
    video, picture = gradient_clip(config.sample_frames, 8 * config.sample_width, 8 * config.sample_height)
    pipeline("a boat", video, picture, num_inference_steps=2, guidance_scale=guidance, output_type="latent")
    assert len(compiled) == warmed > 0


def test_blocks_that_cannot_run_compiled_for_a_while_are_again_afterwards(tmp_path):
    """A profile whose blocks come one by one has no use for them; the planned one, taken up again, has."""
    pipeline = DasPipeline.from_pretrained(PIPELINE_MODEL, device="cpu", prompt_cache=PromptCache(tmp_path))
    compiled = compile_counted(pipeline)
    pipeline.use_profile("group_offload")
    pipeline.warm_up(1)
    assert (pipeline.acceleration.compiled, compiled) == (False, [])
    pipeline.use_profile("resident")
    assert pipeline.acceleration == Acceleration("native", True, "")
    pipeline.warm_up(1)
    assert compiled
    pipeline.acceleration = undo_compilation(pipeline.transformer, pipeline.acceleration)  # what failed stays away
    pipeline.use_profile("group_offload")
    pipeline.use_profile("resident")
    assert not pipeline.acceleration.compiled


def test_rows_that_have_no_room_together_are_compiled_as_they_will_be_computed(tmp_path, monkeypatch):
    pipeline = DasPipeline.from_pretrained(PIPELINE_MODEL, device="cpu", prompt_cache=PromptCache(tmp_path))
    pipeline.acceleration, rows = Acceleration("native", True, ""), []
    hook = lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"]))  # noqa: E731
    pipeline.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    home = clip_at_home(pipeline.transformer.config, pipeline.vae.config, False)
    needed = [NEEDS.of(pipeline, replace(home, batch=batch, cached_rows=0)).denoising for batch in (1, 2)]
    vae_free = replace(NEEDS, encoding=lambda *_: 0, decoding=lambda *_: 0)
    monkeypatch.setattr(warm_up_module, "NEEDS", vae_free)
    monkeypatch.setattr(memory, "free_memory", lambda device: needed[1] - 1)
    pipeline.profile = "drop_text_encoder"  # none is still to come
    pipeline.warm_up(2)
    assert rows == [1]


def test_where_nothing_is_compiled_there_is_nothing_to_warm_up(tmp_path):
    pipeline = DasPipeline.from_pretrained(PIPELINE_MODEL, device="cpu", prompt_cache=PromptCache(tmp_path))
    ran = []
    pipeline.transformer.register_forward_hook(lambda *_: ran.append(1))
    pipeline.warm_up(2)
    assert not ran
