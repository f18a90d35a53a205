# SPDX-License-Identifier: GPL-3.0-or-later
"""The pipeline's promises: one seed decides everything, cancelling decodes nothing, bad requests do no work.

One file, though long: one pipeline, promise by promise.
"""

import json

import numpy as np
import pytest
import torch

from das_blender_addon.errors import JobCancelled, JobRejected, ModelError, OutOfMemory
from das_server.models.checkpoint import add_model
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.loading import load_pipeline
from das_server.pipeline.memory import PROFILES
from das_server.pipeline.prompt import PromptCache
from das_server.pipeline.resume import Checkpoint
from tests.support.models import gradient_clip

PROFILE_ATOL = 1e-5
VIDEO, PICTURE = gradient_clip(9, 48, 32)
CHANNELS = json.loads((PREVIEW_FOLDER / "vae" / "config.json").read_text())["latent_channels"]
LATENTS = (1, 3, CHANNELS, 8, 12)
"""Shape of that clip's latents."""


def load(cache_folder, **options):
    return DasPipeline.from_pretrained(PREVIEW_FOLDER, prompt_cache=PromptCache(cache_folder), **options)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load(tmp_path_factory.mktemp("prompts"))


def run(pipeline, prompt="a paper boat", video=VIDEO, picture=PICTURE, *, seed=7, **options):
    options = {"num_inference_steps": 2, "guidance_scale": 6.0, "vae_tiling": False} | options
    return pipeline(prompt, video, picture, generator=torch.Generator().manual_seed(seed), **options)


def latents_of(pipeline, *arguments, **options):
    """What `run` makes, not decoded."""
    return run(pipeline, *arguments, output_type="latent", **options).latents


@pytest.fixture(scope="module")
def plain(pipeline):
    """What the request without any option gives."""
    return run(pipeline)


# ── A clip that is broken off goes on ───────────────────────────────────────────────────────────────────────────────


def broken_off(pipeline, path, *, after=3, about=("job",), **options):
    """Run until so many steps are done and saved → the steps that were made."""
    steps = []
    checkpoint = Checkpoint(path, {"about": about}, every_s=0.0)
    with pytest.raises(JobCancelled):
        run(pipeline, num_inference_steps=5, callback_on_step_end=lambda index, of, x0: steps.append(index),
            should_stop=lambda: len(steps) == after, checkpoint=checkpoint, **options)  # fmt: skip
    return steps


def gone_on(pipeline, path, *, about=("job",), **options):
    steps = []
    result = run(pipeline, num_inference_steps=5, callback_on_step_end=lambda index, of, x0: steps.append(index),
                 checkpoint=Checkpoint(path, {"about": about}), **options)  # fmt: skip
    return steps, result


def test_clip_that_was_broken_off_goes_on_where_it_was_with_the_same_bytes(pipeline, tmp_path):
    expected = run(pipeline, num_inference_steps=5)
    path = tmp_path / "checkpoints" / "job.safetensors"
    assert broken_off(pipeline, path) == [0, 1, 2]
    steps, result = gone_on(pipeline, path)
    assert steps == [3, 4]
    assert result.frames.tobytes() == expected.frames.tobytes() and torch.equal(result.latents, expected.latents)
    Checkpoint(path, {}).remove()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("change", ["seed", "about", "damaged", "early"])
def test_checkpoint_of_anything_else_is_not_used(pipeline, tmp_path, change):
    path = tmp_path / "job.safetensors"
    broken_off(pipeline, path, after=2)
    options = {"seed": {"seed": 8}, "about": {"about": ("another",)}}.get(change, {}) | {"output_type": "latent"}
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:-100])
    if change == "early":
        path.unlink()
    steps, result = gone_on(pipeline, path, **options)
    assert steps == [0, 1, 2, 3, 4]
    seed = 8 if change == "seed" else 7
    assert torch.equal(result.latents, latents_of(pipeline, num_inference_steps=5, seed=seed))


# ── One seed decides everything ─────────────────────────────────────────────────────────────────────────────────────


def test_same_request_gives_the_same_bytes(pipeline):
    torch.manual_seed(1)
    first = run(pipeline)
    torch.manual_seed(2)  # the global generator plays no part
    again = run(pipeline)
    assert first.frames.dtype == np.uint8 and first.frames.shape == (9, 32, 48, 3)
    assert first.frames.tobytes() == again.frames.tobytes()
    assert torch.equal(first.latents, again.latents)


def test_clip_of_a_model_whose_halves_are_no_whole_tiles_can_be_tiled(pipeline):
    video, picture = gradient_clip(9, 104, 72)
    result = run(pipeline, video=video, picture=picture, num_inference_steps=1, guidance_scale=1.0, vae_tiling=True)
    assert result.frames.shape == (9, 72, 104, 3) and result.settings["vae_tiling"] is True


@pytest.mark.parametrize("carries", [True, False])
def test_only_a_model_of_the_carried_frame_is_given_later_frames(pipeline, monkeypatch, carries):
    monkeypatch.setattr(pipeline, "carries_first_frame", carries)
    seen = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda module, inputs, options: seen.append(options["hidden_states"]), with_kwargs=True
    )
    try:
        result = run(pipeline, num_inference_steps=1)
    finally:
        hook.remove()
    later = seen[0][:, 1:, pipeline.vae.config.latent_channels :]
    assert bool(later.abs().max() > 0.1) is carries and result.settings["carries_first_frame"] is carries


def test_model_of_the_carried_frame_starts_from_the_carried_video_that_came(pipeline):
    given, own = [], []
    carried = np.flip(VIDEO, axis=2).copy()
    result = latents_of(pipeline, num_inference_steps=1, carried_video=carried, on_picture=given.append)
    expected = latents_of(pipeline, num_inference_steps=1, on_picture=own.append)
    np.testing.assert_array_equal(given[0], carried)
    assert own[0].shape == carried.shape and not np.array_equal(own[0], carried)
    again = latents_of(pipeline, num_inference_steps=1, carried_video=own[0])
    assert not torch.equal(result, again)
    assert torch.equal(again, expected)


def test_model_that_carries_nothing_refuses_a_carried_video(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "carries_first_frame", False)
    with pytest.raises(JobRejected, match="does not read a carried video: leave it out") as caught:
        run(pipeline, carried_video=VIDEO)
    assert caught.value.field == "carried_video"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"tracking_range": "unit"},
        {"use_dynamic_cfg": False},
        {"guidance_scale": 1.0},
        {"num_inference_steps": 4},
        {"tracking_generator": torch.Generator().manual_seed(0)},
        {"prompt": "a stone boat"},
        {"negative_prompt": "fog"},
        {"video": VIDEO[::-1].copy()},
        {"picture": PICTURE.rotate(180)},
        {"carried_video": VIDEO},
    ],
    ids=str,
)
def test_every_setting_decides(pipeline, plain, change):
    assert not torch.equal(plain.latents, latents_of(pipeline, **change))


def test_no_generator_means_seed_42(pipeline):
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    silent = pipeline("x", VIDEO, PICTURE, **options)
    assert silent.settings["seed"] == 42
    assert torch.equal(silent.latents, run(pipeline, "x", seed=42, vae_tiling=None, **options).latents)


def test_settings_record_what_decided(pipeline):
    settings = run(pipeline, tracking_range="unit", num_inference_steps=1).settings
    expected = {
        "num_frames": 9, "width": 48, "height": 32, "seed": 7, "num_inference_steps": 1, "guidance_scale": 6.0,
        "use_dynamic_cfg": True, "tracking_range": "unit", "vae_tiling": False, "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    assert expected.items() <= settings.items()
    assert run(pipeline, num_inference_steps=1, output_type="latent").settings["tracking_range"] == "signed"


@pytest.mark.parametrize("tiled", [(True, False), (False, True)])
def test_vae_works_in_tiles_in_the_stages_that_ask_for_them(pipeline, monkeypatch, tiled):
    seen = {"encoder": set(), "decoder": set()}
    for name, part in (("encoder", pipeline.vae.encoder), ("decoder", pipeline.vae.decoder)):
        forward = part.forward
        note = lambda *args, name=name, forward=forward, **kwargs: (  # noqa: E731
            seen[name].add(pipeline.vae.use_tiling), forward(*args, **kwargs))[1]
        monkeypatch.setattr(part, "forward", note)
    monkeypatch.setattr(pipeline, "tiled_encoding", tiled[0])
    monkeypatch.setattr(pipeline, "vae_tiling", tiled[1])
    settings = run(pipeline, num_inference_steps=1, guidance_scale=1.0, vae_tiling=None).settings
    assert (seen["encoder"], seen["decoder"]) == ({tiled[0]}, {tiled[1]})
    assert (settings["tiled_encoding"], settings["vae_tiling"]) == tiled


def test_tracking_draw_leaves_the_other_stream_alone(pipeline):
    """The tracking generator decides the tracking latents and nothing else: the seeded stream ends where it would."""
    ends = []
    for options in ({}, {"tracking_generator": torch.Generator().manual_seed(5)}):
        generator = torch.Generator().manual_seed(7)
        options |= {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
        pipeline("x", VIDEO, PICTURE, generator=generator, **options)
        ends.append(generator.get_state())
    assert torch.equal(*ends)


def test_same_things_said_otherwise_give_the_same_result(pipeline):
    expected = latents_of(pipeline, negative_prompt="")
    for same in (
        {"negative_prompt": None},
        {"vae_tiling": "auto"},
        {"vae_tiling": None},
        {"num_inference_steps": np.int64(2)},
        {"picture": PICTURE.convert("RGBA")},
    ):
        assert torch.equal(latents_of(pipeline, **({"negative_prompt": ""} | same)), expected), same


@pytest.mark.parametrize("prompt", ["", "word " * 2000, "日本語 🐱 é\n\t\0"], ids=["empty", "long", "unicode"])
def test_any_text_is_a_prompt(pipeline, prompt):
    assert torch.isfinite(run(pipeline, prompt, num_inference_steps=1, output_type="latent").latents).all()


# ── Steps, stages, previews, cancelling ─────────────────────────────────────────────────────────────────────────────


def test_callback_sees_every_step(pipeline):
    simple, full, stages = [], [], []
    result = run(
        pipeline,
        num_inference_steps=4,
        callback_on_step_end=lambda *step: simple.append(step),
        on_stage=stages.append,
    )
    whole = lambda pipe, i, t, tensors: full.append((i, t, tensors))  # noqa: E731
    run(pipeline, num_inference_steps=4, output_type="latent", callback_on_step_end=whole)
    assert [(index, count) for index, count, _ in simple] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert [(index, timestep) for index, timestep, _ in full] == [(0, 999), (1, 749), (2, 499), (3, 249)]
    for (_, _, x0), (_, _, tensors) in zip(simple, full, strict=True):
        assert torch.equal(x0, tensors["pred_original_sample"]) and x0.shape == LATENTS
    assert torch.equal(full[-1][2]["latents"], result.latents)
    assert stages == ["encoding", "denoising", "decoding"]


def test_preview_looks_like_the_frames(pipeline):
    """Rough colours at the latents' size: closer to the decoded frames than to their mean colour."""
    result = run(pipeline, num_inference_steps=1, guidance_scale=1.0)
    preview = pipeline.preview_frames(result.latents)
    assert preview.dtype == np.uint8 and preview.shape == (3, 8, 12, 3)
    small = result.frames[0].reshape(8, 4, 12, 4, 3).mean(axis=(1, 3))
    assert np.abs(preview[0] - small).mean() < 0.5 * np.abs(small.mean(axis=(0, 1)) - small).mean()


@pytest.mark.parametrize("steps_done", [0, 1, 2])
def test_cancelled_run_stops_between_steps_and_decodes_nothing(pipeline, steps_done):
    steps, decoded = [], []
    hook = pipeline.vae.decoder.register_forward_hook(lambda *call: decoded.append(call))
    try:
        with pytest.raises(JobCancelled):
            run(
                pipeline,
                callback_on_step_end=lambda index, count, x0: steps.append(index),
                should_stop=lambda: len(steps) >= steps_done,
            )
    finally:
        hook.remove()
    assert len(steps) == steps_done and not decoded


def calls_until_stopped(pipeline, module, video=VIDEO):
    """How often a part has run when a run that is stopped during its first call ends."""
    calls = []
    hook = module.register_forward_hook(lambda *call: calls.append(None))
    try:
        with pytest.raises(JobCancelled):
            run(pipeline, video=video, num_inference_steps=1, should_stop=lambda: bool(calls))
    finally:
        hook.remove()
    run(pipeline, num_inference_steps=1)  # nothing is left of it
    return len(calls)


def test_cancelled_run_stops_within_a_step(pipeline):
    assert len(pipeline.transformer.transformer_blocks) > 2
    assert calls_until_stopped(pipeline, pipeline.transformer.transformer_blocks[0]) == 1
    assert calls_until_stopped(pipeline, pipeline.transformer.transformer_blocks[1]) == 1


def test_cancelled_run_stops_within_encoding_and_decoding(pipeline):
    assert calls_until_stopped(pipeline, pipeline.vae.encoder) == 1
    longer, _ = gradient_clip(17, 48, 32)  # of 5 latents, which are decoded in two parts
    assert calls_until_stopped(pipeline, pipeline.vae.decoder, longer) == 1


def test_latents_are_not_decoded_when_asked_for(pipeline):
    result = run(pipeline, output_type="latent")
    assert result.frames is result.latents and result.latents.shape == LATENTS


# ── Requests that cannot be run ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_inference_steps": 30}, "use 25 or 40"),
        ({"num_inference_steps": 999}, "use 500 or 1000"),
        ({"num_inference_steps": 0}, "1 to 1000"),
        ({"num_inference_steps": 2.0}, "whole number"),
        ({"video": VIDEO[:8]}, "9, 17, 25"),
        ({"video": VIDEO[:, :30]}, "multiple of 8"),
        ({"video": VIDEO[..., :1]}, "1 channels"),
        ({"video": VIDEO.astype(np.float32)}, "uint8"),
        ({"picture": np.zeros((32, 48, 3), np.uint8)}, "PIL"),
        ({"tracking_range": "both"}, "'signed' or 'unit'"),
        ({"output_type": "pil"}, "'np' or 'latent'"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"guidance_scale": "6"}, "finite"),
        ({"vae_tiling": "off"}, "True, False or 'auto'"),
        ({"latents": torch.zeros(1, 3, CHANNELS, 4, 4)}, "latents"),
        ({"latents": torch.full(LATENTS, torch.nan)}, "finite"),
        ({"latents": [0.0]}, "tensor"),
        ({"prompt": None}, "prompt is None"),
        ({"prompt": "a \ud800 boat"}, "half a character"),
        ({"negative_prompt": ["fog"]}, "negative_prompt"),
        ({"tracking_generator": 5}, "torch.Generator"),
        ({"carried_video": VIDEO[:5]}, r"\[5, 32, 48, 3\] and the tracking video \[9, 32, 48, 3\]"),
        ({"carried_video": VIDEO.astype(np.float32)}, "carried video must be a uint8 array"),
        ({"carried_video": VIDEO.tolist()}, "carried video must be a uint8 array"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_request_is_refused_before_any_work(pipeline, change, words):
    stages = []
    with pytest.raises(JobRejected, match=words):
        run(pipeline, on_stage=stages.append, **change)
    assert not stages


def test_inexact_steps_run_when_asked_for(pipeline):
    steps = []
    note = lambda *step: steps.append(step)  # noqa: E731
    run(pipeline, num_inference_steps=3, exact_steps=False, output_type="latent", callback_on_step_end=note)
    assert len(steps) == 3


def test_step_count_of_one_timestep_too_many_stops_at_the_last_one_there_is(pipeline):
    """61 steps round to 62 timesteps, the last of them −1."""
    timesteps = []
    result = run(
        pipeline,
        num_inference_steps=61,
        exact_steps=False,
        guidance_scale=1.0,
        output_type="latent",
        callback_on_step_end=lambda pipe, index, timestep, tensors: timesteps.append(timestep),
    )
    assert len(timesteps) == 61 and min(timesteps) >= 0
    assert torch.isfinite(result.latents).all()


def test_request_that_cannot_fit_is_refused_before_any_work(pipeline):
    video = np.broadcast_to(np.uint8(0), (8 * 4096 + 1, 4096, 4096, 3))
    with pytest.raises(OutOfMemory, match="smaller size"):
        run(pipeline, video=video)


def test_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="model_index"):
        DasPipeline.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not installed.*models pull das-cogvideox-5b"):
        load_pipeline("das-cogvideox-5b", models_folder=tmp_path)


# ── Memory profiles ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_give_the_same_result(plain, tmp_path, profile):
    other = load(tmp_path, profile=profile, device="cpu")
    assert other.profile == profile
    for _ in range(2):
        result = run(other)
        assert (result.latents - plain.latents).abs().max() <= PROFILE_ATOL
        assert np.abs(result.frames.astype(int) - plain.frames.astype(int)).max() <= 1
    assert result.settings["profile"] == profile


def test_installed_model_loads_by_name():
    result = run(load_pipeline("das-preview", device="cpu"), num_inference_steps=1, guidance_scale=1.0)
    assert result.frames.shape == (9, 32, 48, 3) and result.settings["vae_tiling"] is False


def test_model_with_digests_is_verified_before_it_is_loaded(tmp_path):
    folder = add_model("das-cogvideox-5b", PREVIEW_FOLDER, tmp_path)
    DasPipeline.from_pretrained(folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=f"{weights.name} has changed"):
        DasPipeline.from_pretrained(folder)
    with pytest.raises(ModelError, match=f"{weights.name} has changed"):
        load_pipeline(folder.name, models_folder=tmp_path)


def test_text_encoder_leaves_memory(tmp_path):
    dropped, kept = load(tmp_path / "a"), load(tmp_path / "b", profile="resident", device="cpu")
    for pipeline in (dropped, kept):
        latents_of(pipeline, num_inference_steps=1)
    assert dropped.prompt_encoder.model is None
    assert kept.prompt_encoder.model is not None


def test_tables_of_an_earlier_clip_change_nothing(pipeline, tmp_path):
    """The norm tables that a pipeline keeps are those of the timestep, whatever ran before."""
    for steps in (5, 2):
        kept = latents_of(pipeline, num_inference_steps=steps)
    assert torch.equal(kept, latents_of(load(tmp_path), num_inference_steps=2))
