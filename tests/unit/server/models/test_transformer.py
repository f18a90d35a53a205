# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer: what its options change and, above all, what they must not change."""

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    LayerSkipConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import (
    SeaCacheConfig,
    apply_faster_cache,
    apply_first_block_cache,
    apply_layer_skip,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
    apply_sea_cache,
    apply_taylorseer_cache,
)

from das_blender_addon.errors import ModelError
from das_server.models.attention import DasAttnProcessor
from das_server.models.transformer import RunCache
from tests.support.models import output_of, tiny_inputs, tiny_transformer

ATOL = 1e-5  # float32 sums in another order

FLAVOURS = {
    "learned positions": {},
    "rotary only": {"use_learned_positional_embeddings": False},
    "computed positions": {
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": False,
        "in_channels": 16,
    },
    "no tracking blocks": {"num_tracking_blocks": 0},
    "as many tracking blocks as blocks": {"num_tracking_blocks": 3},
    "more tracking blocks than blocks": {"num_tracking_blocks": 5},
}


def reference_output(model, inputs):
    """The computation spelled out with stock parts: every row computed, every table anew, text rows thrown away at the
    end."""
    x, e, t, maps, rope = inputs.values()
    temb = model.time_embedding(model.time_proj(t).to(x.dtype))
    length = e.shape[1]
    joint, track = model.patch_embed(e, x), model.patch_embed(e, maps)
    text, video = joint[:, :length], joint[:, length:]
    control = model.initial_combine_linear(video + track[:, length:])
    for index, block in enumerate(model.transformer_blocks):
        video, text = super(type(block), block).forward(video, text, temb, rope)
        if index < len(model.transformer_blocks_copy):
            copy = model.transformer_blocks_copy[index]
            control, _ = super(type(copy), copy).forward(control, text, temb, rope)
            control = model.combine_linears[index](control)
            video = video + control
    video = model.proj_out(model.norm_out(model.norm_final(video), temb=temb))
    batch, frames, _, height, width = x.shape
    video = video.reshape(batch, frames, height // 2, width // 2, -1, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return video.reshape(batch, frames, -1, height, width)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_short_cuts_change_nothing(flavour, dtype):
    model = tiny_transformer(**FLAVOURS[flavour]).to(dtype)
    inputs = tiny_inputs(model)
    for name in ("hidden_states", "encoder_hidden_states", "tracking_maps"):
        inputs[name] = inputs[name].to(dtype)
    with torch.no_grad():
        expected = reference_output(model, inputs)
    assert (output_of(model, inputs) - expected).abs().max() <= ATOL


def test_output_is_a_tuple_when_asked_for():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    with torch.no_grad():
        (output,) = model(*inputs.values(), return_dict=False)
    assert torch.equal(output, output_of(model, inputs))


def test_rows_of_a_batch_do_not_mix():
    model = tiny_transformer()
    inputs = tiny_inputs(model, batch=3)
    whole = output_of(model, inputs)
    for row in range(3):
        alone = {name: value if name == "image_rotary_emb" else value[row : row + 1] for name, value in inputs.items()}
        assert (output_of(model, alone) - whole[row]).abs().max() <= ATOL


def test_timestep_may_be_one_for_all_rows():
    model = tiny_transformer()
    inputs = tiny_inputs(model) | {"timestep": torch.tensor([321, 321])}
    expected = output_of(model, inputs)
    for timestep in (321, torch.tensor(321), torch.tensor([321])):
        assert (output_of(model, inputs | {"timestep": timestep}) - expected).abs().max() <= ATOL


def test_tracking_changes_the_output():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    other = inputs | {"tracking_maps": inputs["tracking_maps"].flip(1)}
    assert (output_of(model, inputs) - output_of(model, other)).abs().max() > 0.01


def test_run_cache_keeps_the_tracking_of_its_run():
    """The cache belongs to one run: with it, a later step does not look at the tracking maps again."""
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    run = RunCache()
    first = output_of(model, inputs, run=run)
    again = output_of(model, inputs | {"tracking_maps": torch.zeros_like(inputs["tracking_maps"])}, run=run)
    assert torch.equal(first, again)


def test_modulation_tables_equal_the_projections_of_each_step():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    tables = model.modulation_tables([999, 499, 0], torch.float32, torch.device("cpu"))
    for timestep in (999, 499, 0):
        at = inputs | {"timestep": timestep}
        difference = output_of(model, at, run=RunCache(modulation=tables)) - output_of(model, at)
        assert difference.abs().max() <= ATOL


# ── What does not fit is refused ────────────────────────────────────────────────────────────────────────────────────


def test_clip_of_untrained_length_is_refused_where_positions_are_learned():
    model = tiny_transformer()
    with pytest.raises(ModelError, match=r"4 latent frames \(13 frames\)"):
        output_of(model, tiny_inputs(model, num_latent_frames=4))
    model.allow_computed_positions = True
    assert output_of(model, tiny_inputs(model, num_latent_frames=4)).shape[1] == 4


@pytest.mark.parametrize("flavour", ["rotary only", "computed positions"])
def test_clip_of_any_length_runs_where_positions_are_computed(flavour):
    model = tiny_transformer(**FLAVOURS[flavour])
    assert output_of(model, tiny_inputs(model, num_latent_frames=5)).shape[1] == 5


def test_other_size_is_refused_where_positions_are_learned():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    for name in ("hidden_states", "tracking_maps"):
        inputs[name] = torch.zeros(2, 3, 32, 8, 8)
    with pytest.raises(ModelError, match="8x6"):
        output_of(model, inputs)


def test_tracking_maps_of_another_shape_are_refused():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    with pytest.raises(ModelError, match="tracking_maps"):
        output_of(model, inputs | {"tracking_maps": inputs["tracking_maps"][:, :, :16]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tracking_maps": torch.zeros(3, 3, 32, 6, 8)}, "tracking_maps is .3, 3, 32, 6, 8"),
        ({"tracking_maps": torch.zeros(3, 32, 6, 8)}, "tracking_maps"),
        ({"encoder_hidden_states": torch.zeros(1, 10, 16)}, "encoder_hidden_states .* 2 rows"),
        ({"timestep": torch.tensor([1, 2, 3])}, "3 values for 2 rows"),
        ({"hidden_states": torch.zeros(2, 3, 16, 6, 8)}, r"\[B,F,32,H,W\]"),
    ],
)
def test_inputs_that_do_not_agree_are_refused(change, words):
    model = tiny_transformer()
    with pytest.raises(ModelError, match=words):
        output_of(model, tiny_inputs(model) | change)


def test_half_a_patch_is_refused():
    """Without learned positions a row too many would be left out silently."""
    model = tiny_transformer(**FLAVOURS["computed positions"])
    odd = torch.zeros(2, 3, 16, 7, 8)
    with pytest.raises(ModelError, match="multiples of 2"):
        output_of(model, tiny_inputs(model) | {"hidden_states": odd, "tracking_maps": odd})


@pytest.mark.parametrize("config", [FirstBlockCacheConfig(), PyramidAttentionBroadcastConfig()])
def test_block_caches_are_refused_with_a_sentence(config):
    with pytest.raises(ModelError, match="wrong frames"):
        tiny_transformer().enable_cache(config)


@pytest.mark.parametrize(
    ("apply", "config"),
    [
        (
            apply_pyramid_attention_broadcast,
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
            ),
        ),
        (apply_faster_cache, FasterCacheConfig(current_timestep_callback=lambda: 500)),
        (apply_taylorseer_cache, TaylorSeerCacheConfig(use_lite_mode=True)),
        (apply_first_block_cache, FirstBlockCacheConfig()),
        (apply_mag_cache, MagCacheConfig(calibrate=True)),
        (
            apply_sea_cache,
            SeaCacheConfig(raw_vision_callback=lambda _, args, named: list(named["hidden_states"].movedim(1, 2))),
        ),
        (apply_layer_skip, LayerSkipConfig(indices=[1])),
    ],
    ids=["pyramid attention broadcast", "faster cache", "taylorseer", "first block", "mag", "sea", "layer skip"],
)
def test_cache_hooked_in_from_outside_is_refused_with_a_sentence(apply, config):
    model = tiny_transformer()
    apply(model, config)
    with pytest.raises(ModelError, match="render without a cache"), model.cache_context("cond"):
        output_of(model, tiny_inputs(model))


def test_replaced_list_of_blocks_is_refused():
    """Some caches put one block in the place of all: the copies beside the others would silently not run."""
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    model.transformer_blocks = torch.nn.ModuleList([model.transformer_blocks[0]])
    with pytest.raises(ModelError, match="1 blocks instead of 3"):
        output_of(model, inputs)


def test_fused_projections_are_refused():
    with pytest.raises(ModelError, match="set_attention_backend"):
        tiny_transformer().fuse_qkv_projections()


# ── diffusers' modern features work ─────────────────────────────────────────────────────────────────────────────────


def test_processor_survives_loading(tmp_path):
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert len(loaded.attn_processors) == 5
    assert all(isinstance(processor, DasAttnProcessor) for processor in loaded.attn_processors.values())


def test_attention_backend_reaches_every_block():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    try:
        model.set_attention_backend("_native_math")
        assert {processor._attention_backend for processor in model.attn_processors.values()} == {"_native_math"}
        assert (output_of(model, inputs) - expected).abs().max() <= ATOL
    finally:
        model.set_attention_backend("native")  # diffusers keeps the choice globally, too


def test_regional_compilation_is_one_graph_per_kind_of_block():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model.compile_repeated_blocks(fullgraph=True, backend=backend)
    assert (output_of(model, inputs) - expected).abs().max() <= ATOL
    assert len(graphs) == 2  # main blocks, and copies without text rows
    torch._dynamo.reset()


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_changes_nothing(offload_type):
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    model.enable_group_offload(torch.device("cpu"), offload_type=offload_type, num_blocks_per_group=1)
    run = RunCache()
    for _ in range(2):
        assert torch.equal(output_of(model, inputs, run=run), expected)


def test_gradient_checkpointing_changes_no_gradient():
    def gradients(checkpointing):
        model = tiny_transformer()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train()
        model(**tiny_inputs(model)).sample.square().mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        assert gradient is not None, name
        assert torch.allclose(gradient, checkpointed[name], atol=ATOL), name
