# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole run against the published one: embeds, posteriors, every step's latents, frames, order of the draws."""

import numpy as np
import pytest
import torch
from PIL import Image

from das_server.pipeline.checks import image_to_frame
from das_server.pipeline.cogvideox import latents as border
from das_server.pipeline.cogvideox.pipeline import DEFAULT_NEGATIVE_PROMPT, DasPipeline
from das_server.pipeline.cogvideox.prompt import PromptEncoder
from das_server.pipeline.prompt import PromptCache
from tests.parity.golden_data import (
    PIPELINE_MODEL,
    arrays,
    level_difference,
    max_difference,
    read_json,
    relative_rms,
    tensors,
)
from tests.parity.tolerances import (
    BFLOAT16_FRAME_LEVELS,
    BFLOAT16_LATENT_ATOL,
    BFLOAT16_RELATIVE_RMS,
    DRAW_ATOL,
    EMBEDS_ATOL,
    FRAME_LEVELS,
    FRAME_SHARE,
    LATENT_ATOL,
    guidance_atol,
)

CASE = read_json("pipeline/case_main")


@pytest.fixture(scope="module")
def golden():
    return tensors("pipeline/case_main")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load(torch.float32, tmp_path_factory.mktemp("prompts"))


def load(dtype, cache_folder):
    return DasPipeline.from_pretrained(PIPELINE_MODEL, torch_dtype=dtype, prompt_cache=PromptCache(cache_folder))


def inputs():
    """(tracking video u8, first frame) of the golden run, whose picture was cut, not rounded, to 8 bits."""
    case = arrays("pipeline/case_main")
    picture = (case["image_f32"] * 255).astype(np.uint8).transpose(1, 2, 0)
    return case["tracking_video_u8"], Image.fromarray(picture)


def run(pipeline, **options):
    tracking_video, image = inputs()
    seen = {"latents": [], "x0": []}

    def on_step_end(pipe, index, timestep, tensors_of_step):
        seen["latents"].append(tensors_of_step["latents"])
        seen["x0"].append(tensors_of_step["pred_original_sample"])

    settings = {
        "num_inference_steps": CASE["steps"],
        "guidance_scale": CASE["guidance_scale"],
        "generator": torch.Generator().manual_seed(CASE["seed"]),
        "tracking_generator": torch.Generator().manual_seed(CASE["global_seed"]),
        "tracking_range": "unit",
        "vae_tiling": True,
        "callback_on_step_end": on_step_end,
    }
    result = pipeline(CASE["prompt"], tracking_video, image, **(settings | options))
    return result, {name: torch.stack(values) for name, values in seen.items()}


def test_run_equals_published(pipeline, golden):
    result, seen = run(pipeline)
    assert max_difference(seen["latents"], golden["latents_after_step"]) <= LATENT_ATOL
    assert max_difference(seen["x0"], golden["pred_x0"]) <= LATENT_ATOL
    largest, _, share = level_difference(result.frames, golden["frames_u8"])
    assert largest <= FRAME_LEVELS and share < FRAME_SHARE


def test_run_equals_published_in_bfloat16(tmp_path):
    case = tensors("pipeline/case_bf16")
    result, seen = run(load(torch.bfloat16, tmp_path))
    assert seen["latents"].dtype == torch.bfloat16 and seen["x0"].dtype == torch.float32
    assert relative_rms(seen["latents"], case["latents_after_step"]) <= BFLOAT16_RELATIVE_RMS
    assert max_difference(seen["latents"], case["latents_after_step"]) <= BFLOAT16_LATENT_ATOL
    _, mean, _ = level_difference(result.frames, case["frames_u8"])
    assert mean <= BFLOAT16_FRAME_LEVELS


def test_default_negative_prompt_is_the_published_one():
    assert CASE["call_kwargs"]["negative_prompt"] == DEFAULT_NEGATIVE_PROMPT


def test_prompt_embeds_equal_published(pipeline, golden):
    negative, positive = pipeline.prompt_encoder.encode([DEFAULT_NEGATIVE_PROMPT, CASE["prompt"]], pipeline.device)
    assert max_difference(negative, golden["negative_prompt_embeds"]) <= EMBEDS_ATOL
    assert max_difference(positive, golden["prompt_embeds"]) <= EMBEDS_ATOL


@pytest.mark.parametrize("case", read_json("pipeline/tokenizer_cases"), ids=lambda case: repr(case["text"][:20]))
def test_token_ids_equal_published(case):
    encoder = PromptEncoder(PIPELINE_MODEL, 226, torch.float32)
    ids = encoder.token_ids(case["text"])[0].tolist()
    assert len(ids) == 226
    expected = case["hf_ids"][:226]
    assert ids == expected + [0] * (226 - len(expected))


def test_guidance_equals_published(pipeline):
    """With guidance the model sees two rows; the printed guidance of each step is the golden one."""
    from das_server.pipeline.cogvideox.scheduler import guidance_at

    steps, scale = CASE["steps"], CASE["guidance_scale"]
    for timestep, published in zip(CASE["timesteps"], CASE["guidance_per_step"], strict=True):
        ours = guidance_at(timestep, steps, scale, dynamic=True)
        assert ours == pytest.approx(published, rel=0, abs=guidance_atol(steps, timestep, scale))


@pytest.mark.parametrize("latents_given", [False, True])
def test_draws_come_in_the_published_order(pipeline, golden, monkeypatch, latents_given):
    """Every draw: from which generator, its shape, its first values; latents that are given are not drawn."""
    draws = []
    real = torch.randn

    def recording(*size, generator=None, **options):
        values = real(*size, generator=generator, **options)
        draws.append((generator.initial_seed(), list(values.shape), values.flatten()[:4].tolist()))
        return values

    monkeypatch.setattr(torch, "randn", recording)
    run(pipeline, output_type="latent", latents=golden["latents_init"] if latents_given else None)

    by_seed = {CASE["global_seed"]: "global RNG", CASE["seed"]: "seeded generator"}
    expected = CASE["rng_draws"]
    if latents_given:
        expected = expected[:2] + expected[3:]
    assert [(by_seed[seed], shape) for seed, shape, _ in draws] == [(one["source"], one["shape"]) for one in expected]
    if not latents_given:
        for (_, _, first), one in zip(draws, expected, strict=True):
            assert first == pytest.approx(one["first"], rel=0, abs=DRAW_ATOL)


def test_vae_posteriors_equal_published(pipeline, golden):
    tracking_video, image = inputs()
    untiled = tensors("pipeline/vae_untiled")

    def posterior(frames, value_range, tiling):
        pipeline.vae.enable_tiling() if tiling else pipeline.vae.disable_tiling()
        pixels = border.frames_to_vae(frames, pipeline.device, torch.float32, value_range)
        with torch.no_grad():
            return pipeline.vae.encode(pixels).latent_dist.parameters

    picture = image_to_frame(image, 112, 96)
    for ours, theirs in (
        (posterior(tracking_video, "unit", True), golden["posterior_tracking_video"]),
        (posterior(tracking_video[:1], "signed", True), golden["posterior_tracking_image"]),
        (posterior(picture, "signed", True), golden["posterior_image"]),
        (posterior(tracking_video, "unit", False), untiled["posterior_tracking_video"]),
        (posterior(tracking_video, "signed", True), untiled["posterior_tracking_video_minus1_to_1_tiled"]),
    ):
        assert max_difference(ours, theirs) <= LATENT_ATOL


def test_untiled_decode_equals_published(pipeline, golden):
    pipeline.vae.disable_tiling()
    with torch.no_grad():
        frames = border.decode(pipeline.vae, golden["latents_after_step"][-1])
    decoded = tensors("pipeline/vae_untiled")["decoded_first_and_last_frame"][0]
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 3, 0)
    largest, _, share = level_difference(frames[[0, -1]], expected)
    assert largest <= FRAME_LEVELS and share < FRAME_SHARE
