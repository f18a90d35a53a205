# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer against the published one, on every flavour of golden checkpoint."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from das_blender_addon.errors import ModelError
from das_server.models.transformer import DasTransformer3DModel, RunCache
from das_server.pipeline.cogvideox.latents import rotary_positions
from tests.parity.golden_data import GOLDEN, max_difference, relative_rms, rotary, tensors
from tests.parity.tolerances import BFLOAT16_RELATIVE_RMS, FLOAT32_ATOL, INTERMEDIATE_ATOL, ROTARY_ATOL


def run(model, io, dtype=torch.float32, **options):
    with torch.no_grad():
        return model(
            io["hidden_states"].to(dtype),
            io["encoder_hidden_states"].to(dtype),
            io["timestep"],
            io["tracking_maps"].to(dtype),
            rotary(io),
            **options,
        ).sample


@pytest.mark.parametrize(
    "case", ["transformer/io_main", "transformer_sincos/io_main", "transformer_sincos/io_other_size"]
)
def test_output_equals_published(case):
    model = DasTransformer3DModel.from_pretrained(GOLDEN / case.split("/")[0])
    io = tensors(case)
    assert max_difference(run(model, io), io["output"]) <= FLOAT32_ATOL


def test_output_equals_published_in_bfloat16():
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer", torch_dtype=torch.bfloat16)
    io = tensors("transformer/io_main")
    assert relative_rms(run(model, io, torch.bfloat16).float(), io["output_bf16_as_f32"]) <= BFLOAT16_RELATIVE_RMS


def test_short_clip_is_refused_and_equals_published_when_asked_for():
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")
    io = tensors("transformer/io_short_clip")
    with pytest.raises(ModelError, match="3 latent frames"):
        run(model, io)
    model.allow_computed_positions = True
    assert max_difference(run(model, io), io["output"]) <= FLOAT32_ATOL


def test_intermediate_values_equal_published():
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")
    io = tensors("transformer/io_main")
    seen = {}

    def keep(name, pick=lambda output: output):
        return lambda module, inputs, output: seen.__setitem__(name, pick(output)[1:2])

    model.time_embedding.register_forward_hook(keep("temb"))
    model.initial_combine_linear.register_forward_hook(keep("initial_combine"))
    for index, block in enumerate(model.transformer_blocks):
        block.register_forward_hook(keep(f"block{index}_hidden", lambda output: output[0]))
        block.register_forward_hook(keep(f"block{index}_text", lambda output: output[1]))
    for index, block in enumerate(model.transformer_blocks_copy):
        block.register_forward_hook(keep(f"copy{index}_hidden", lambda output: output[0]))
        model.combine_linears[index].register_forward_hook(keep(f"combine{index}"))
    run(model, io)

    assert len(seen) == 12
    for name, value in seen.items():
        assert max_difference(value, io[f"mid_{name}"]) <= INTERMEDIATE_ATOL, name


def test_conversion_equals_published_and_its_base_bit_for_bit():
    model = DasTransformer3DModel.from_base(GOLDEN / "transformer_from_base", 1)
    base = CogVideoXTransformer3DModel.from_pretrained(str(GOLDEN / "transformer_from_base"))
    io = tensors("transformer_from_base/io_main")
    with torch.no_grad():
        of_base = base(
            io["hidden_states"], io["encoder_hidden_states"], io["timestep"], image_rotary_emb=rotary(io)
        ).sample
    ours = run(model, io)
    assert torch.equal(ours, of_base)
    assert max_difference(ours, io["output"]) <= FLOAT32_ATOL


def test_run_cache_changes_nothing():
    """One tracking row for both guidance rows, tracking tokens of an earlier step, and modulation tables."""
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")
    io = tensors("transformer/io_main")
    assert torch.equal(io["tracking_maps"][0], io["tracking_maps"][1])
    assert io["timestep"].tolist() == [999, 999]
    io |= {"tracking_maps": io["tracking_maps"][:1], "timestep": io["timestep"][:1]}
    tables = model.modulation_tables([999, 500], torch.float32, torch.device("cpu"))
    for cache in (RunCache(), RunCache(modulation=tables)):
        for _ in range(2):
            assert max_difference(run(model, io, run=cache), io["output"]) <= FLOAT32_ATOL
        assert cache.tracking_tokens.shape == (1, 210, 64)


@pytest.mark.parametrize("case", ["transformer/io_main", "transformer/io_short_clip"])
def test_rotary_tables_equal_published(case):
    io = tensors(case)
    (rows, columns) = (io["hidden_states"].shape[3] // 2, io["hidden_states"].shape[4] // 2)
    cos, sin = rotary_positions(
        head_dim=io["rope_cos"].shape[1],
        grid_size=(rows, columns),
        base_size=(6, 7),
        num_latent_frames=io["hidden_states"].shape[1],
        device=torch.device("cpu"),
    )
    assert max_difference(cos, io["rope_cos"]) <= ROTARY_ATOL
    assert max_difference(sin, io["rope_sin"]) <= ROTARY_ATOL
