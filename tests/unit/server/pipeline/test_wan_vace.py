# SPDX-License-Identifier: GPL-3.0-or-later
"""Wan VACE at tiny random size: the published pipeline's numbers, what decides the frames, what ends a clip early."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from das_blender_addon.errors import JobCancelled, JobRejected, ModelError, OutOfMemory
from das_server.models.checkpoint import add_model
from das_server.models.float8 import use_float8
from das_server.models.registry import GIBIBYTE, model_spec
from das_server.models.wan_vace import VaceTransformer, dtype_of
from das_server.pipeline.acceleration import Acceleration, accelerate
from das_server.pipeline.base import ClipJob, Watch
from das_server.pipeline.clip import make_clip
from das_server.pipeline.doctor import doctor
from das_server.pipeline.memory import plan_memory
from das_server.pipeline.needs import Clip
from das_server.pipeline.prompt import PromptCache
from das_server.pipeline.resume import Checkpoint
from das_server.pipeline.wan_vace import holes as masks
from das_server.pipeline.wan_vace import pipeline as pipelines
from das_server.pipeline.wan_vace.needs import NEEDS
from das_server.pipeline.wan_vace.pipeline import VacePipeline
from das_server.pipeline.wan_vace.prompt import MAX_LENGTH, clean
from tests.support.wan import FULL, write_full_wan_headers, write_wan_checkpoint

T, H, W = 9, 32, 48
DRAW = np.random.default_rng(0)
CARRIED = DRAW.integers(0, 256, (T, H, W, 3), dtype=np.uint8)
HOLES = np.zeros((T, H, W), bool)
HOLES[2, 8:14, 20:30] = HOLES[7, :, :10] = True
REFERENCES = DRAW.integers(0, 256, (2, H, W, 3), dtype=np.uint8)
JOB = ClipJob(
    "a  street&amp;sky",
    np.zeros((T, H, W, 3), np.uint8),
    Image.fromarray(CARRIED[0]),
    negative_prompt="fog",
    num_inference_steps=4,
    guidance_scale=5.0,
    seed=7,
    carried_video=CARRIED,
    holes=HOLES,
    references=REFERENCES,
)
KERNEL_TOLERANCE = 1e-5
"""Largest difference of latents of about 1 where the same float32 products are added in another order."""

ROUNDED = 0.1
"""Mean difference of latents of about 1 that were computed in bfloat16: an eighth of a percent, step upon step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wan_checkpoint(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def pipeline(folder, tmp_path_factory):
    return load(folder, tmp_path_factory.mktemp("prompts"))


def load(folder, cache, **options) -> VacePipeline:
    return VacePipeline.from_pretrained(
        folder, device="cpu", vae_tiling=False, prompt_cache=PromptCache(cache), **options
    )


def made(pipeline, watch=None, **changes):
    return make_clip(pipeline, replace(JOB, **changes), watch)


# ── The published pipeline ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("num_references", [0, 2])
def test_frames_are_those_of_diffusers_own_pipeline(folder, pipeline, monkeypatch, guidance, num_references):
    """Which is given the same grey video and, in the place of its own reduction of the mask, ours."""
    from diffusers import WanVACEPipeline

    theirs = WanVACEPipeline.from_pretrained(folder)
    grown = masks.grow(HOLES)
    hidden = masks.hidden_pixels(grown).numpy()
    grey = np.where(hidden[..., None], 127.5, CARRIED) / 255.0
    ours = masks.latent_mask(grown)[None]
    padding = ours.new_zeros(1, 64, num_references, *ours.shape[3:])
    monkeypatch.setattr(theirs, "prepare_masks", lambda *args, **options: torch.cat([padding, ours], dim=2))
    published = theirs(
        prompt=JOB.prompt,
        negative_prompt=JOB.negative_prompt,
        video=[torch.from_numpy(grey).permute(0, 3, 1, 2).float()],
        mask=[torch.from_numpy(hidden).float()[:, None].expand(-1, 3, -1, -1)],
        reference_images=[Image.fromarray(one) for one in REFERENCES[:num_references]] or None,
        height=H,
        width=W,
        num_frames=T,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(JOB.seed),
        output_type="latent",
    ).frames
    references = REFERENCES[:num_references] if num_references else None
    latents = made(pipeline, guidance_scale=guidance, references=references).latents
    assert latents.shape == (1, 4, 3, 4, 6)
    assert (published[:, :, num_references:] - latents).abs().max() < KERNEL_TOLERANCE


def test_prompts_are_cleaned_as_in_diffusers_own_pipeline():
    from diffusers.pipelines.wan.pipeline_wan_vace import prompt_clean

    for text in ("", " a \n b\t c ", "&amp;amp;lt;b&gt;", "schÃ¶n", "“quoted” … ﬁ", "東京\u3000夜"):
        assert clean(text) == prompt_clean(text)


# ── What decides the frames ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_lies_in_a_hole_changes_nothing(pipeline):
    filled = CARRIED.copy()
    filled[HOLES] = DRAW.integers(0, 256, (int(HOLES.sum()), 3), dtype=np.uint8)
    assert (filled != CARRIED).any()
    assert made(pipeline).frames.tobytes() == made(pipeline, carried_video=filled).frames.tobytes()


@pytest.mark.parametrize(("frame", "row", "column"), [(0, 0, 0), (2, 2, 40), (4, 31, 47), (8, 16, 47)])
def test_a_carried_pixel_changes_the_frames(pipeline, frame, row, column):
    other = CARRIED.copy()
    other[frame, row, column] ^= 255
    assert (made(pipeline).latents != made(pipeline, carried_video=other).latents).any()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "a road"},
        {"negative_prompt": "rain"},
        {"guidance_scale": 4.0},
        {"num_inference_steps": 3},
        {"references": REFERENCES[:1]},
        {"references": None},
        {"holes": np.zeros_like(HOLES)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_asked_for_decides_the_frames(pipeline, change):
    ours, other = made(pipeline).frames, made(pipeline, **change).frames
    assert ours.shape == other.shape == (T, H, W, 3) and ours.dtype == np.uint8
    assert (ours != other).any()


def test_same_job_gives_the_same_bytes_whatever_was_made_before(pipeline):
    before = made(pipeline).frames
    made(pipeline, seed=9, num_inference_steps=2, guidance_scale=1.0)
    assert before.tobytes() == made(pipeline).frames.tobytes()


def test_without_a_carried_video_the_first_frame_is_known(pipeline):
    alone = np.ones_like(HOLES)
    alone[0] = False
    given = made(pipeline, carried_video=np.repeat(CARRIED[:1], T, axis=0), holes=alone)
    assert given.frames.tobytes() == made(pipeline, carried_video=None, holes=None).frames.tobytes()


@pytest.mark.parametrize("profile", ["resident", "drop_text_encoder", "group_offload"])
def test_no_memory_profile_changes_a_byte(folder, pipeline, tmp_path, profile):
    other = load(folder, tmp_path, profile=profile)
    assert (other.profile, other.streamed is not None) == (profile, profile == "group_offload")
    assert made(other).frames.tobytes() == made(pipeline).frames.tobytes()
    other.use_profile("group_offload")
    assert other.streamed.is_at_rest() and made(other).frames.tobytes() == made(pipeline).frames.tobytes()
    assert other.streamed.device_bytes() + other.needs().vae == other.needs().resting_bytes("group_offload")


def test_report_names_what_decided_the_frames(pipeline):
    settings = made(pipeline).settings
    assert {name: settings[name] for name in ("num_frames", "width", "height", "seed", "guidance_scale")} == {
        "num_frames": T, "width": W, "height": H, "seed": 7, "guidance_scale": 5.0,
    }  # fmt: skip
    assert settings["num_references"] == 2 and settings["flow_shift"] == 3.0
    assert settings["hole_share"] == round(float(HOLES.mean()), 4) and settings["profile"] == "cpu"


# ── What ends a clip early, and how it goes on ──────────────────────────────────────────────────────────────────────


def test_clip_is_cancelled_within_a_block(pipeline):
    """Of eight passes of five blocks each, and parts of the VAE, each one can be the last."""
    asked = [0]

    def count() -> bool:
        asked[0] += 1
        return False

    made(pipeline, Watch(should_stop=count))
    assert asked[0] > 8 * 5 + T
    for last in range(1, asked[0], 7):
        left = [last]

        def stop(left=left) -> bool:
            left[0] -= 1
            return left[0] < 0

        stages = []
        with pytest.raises(JobCancelled):
            made(pipeline, Watch(should_stop=stop, on_stage=stages.append))
        assert left[0] == -1  # nobody asked again
    assert stages == ["encoding", "denoising", "decoding"]
    assert made(pipeline).frames.tobytes() == made(pipeline).frames.tobytes()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_clip_goes_on_where_it_was_broken_off(folder, pipeline, tmp_path, after):
    whole, steps = made(pipeline), []

    def watch(stops: bool) -> Watch:
        return Watch(
            should_stop=lambda: stops and len(steps) == after,
            on_step=lambda index, of, x0: steps.append(index),
            checkpoint=Checkpoint(tmp_path / "one.safetensors", {"job": 1}, every_s=0.0),
        )

    with pytest.raises(JobCancelled):
        made(pipeline, watch(True))
    again = made(load(folder, tmp_path), watch(False))
    assert steps == [0, 1, 2, 3]
    assert again.frames.tobytes() == whole.frames.tobytes() and torch.equal(again.latents, whole.latents)


def test_previews_are_small_frames_of_every_step(pipeline):
    shown, pictures = [], []
    watch = Watch(
        on_step=lambda index, of, x0: shown.append((index, of, pipeline.preview_frames(x0))),
        on_picture=pictures.append,
    )
    made(pipeline, watch)
    assert [(index, of) for index, of, _ in shown] == [(step, 4) for step in range(4)]
    assert all(frames.shape == (3, 4, 6, 3) and frames.dtype == np.uint8 for *_, frames in shown)
    assert (pictures[0][HOLES] == 128).all() and (pictures[0][0] == CARRIED[0]).all()


# ── What is refused, before any work ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tracking_video": np.zeros((8, H, W, 3), np.uint8)}, "num_frames"),
        ({"tracking_video": np.zeros((1, H, W, 3), np.uint8)}, "num_frames"),
        ({"tracking_video": np.zeros((T, H, 40, 3), np.uint8)}, "size"),
        ({"holes": None}, "holes"),
        ({"carried_video": None}, "holes"),
        ({"holes": HOLES[:5]}, "holes"),
        ({"holes": HOLES.astype(np.uint8)}, "holes"),
        ({"carried_video": CARRIED[:, :16]}, "carried_video"),
        ({"references": REFERENCES[:, :16]}, "references"),
        ({"references": REFERENCES[:0]}, "references"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "\ud800"}, "prompt"),
    ],
)
def test_request_that_cannot_be_run_is_refused(pipeline, change, field):
    stages = []
    with pytest.raises(JobRejected) as caught:
        made(pipeline, Watch(on_stage=stages.append), **change)
    assert caught.value.field == field and stages == []


@pytest.mark.parametrize("num_frames", [5, 13])
def test_clips_have_four_n_and_one_frames(pipeline, num_frames):
    video = np.zeros((num_frames, H, W, 3), np.uint8)
    frames = made(pipeline, tracking_video=video, carried_video=None, holes=None, references=None).frames
    assert frames.shape == video.shape


def test_first_clip_of_the_published_size_finds_its_blocks_compiled(folder, tmp_path, monkeypatch):
    pipeline, compiled = load(folder, tmp_path), []

    def compiler(graph, inputs):
        compiled.append(graph)
        return graph.forward

    home = Clip(T, W, H, False, batch=1)
    monkeypatch.setattr(pipelines, "clip_at_home", lambda *_: home)
    pipeline.warm_up(2)
    assert not compiled  # nothing is to be
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=compiler)
    pipeline.acceleration = Acceleration("native", True, "")
    pipeline.warm_up(2)
    warmed = len(compiled)
    settings = made(pipeline, references=None, num_inference_steps=2).settings
    assert len(compiled) == warmed > 0 and settings["compiled"]


# ── Loading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_transformer_is_that_of_the_stock_loader(folder, dtype):
    from diffusers import WanVACETransformer3DModel

    ours = VaceTransformer.load(folder / "transformer", dtype=dtype, device=torch.device("cpu"))
    stock = WanVACETransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)
    theirs = dict([*stock.named_parameters(), *stock.named_buffers()])
    names = [name for name, _ in [*ours.named_parameters(), *ours.named_buffers()]]
    assert sorted(names) == sorted(theirs)
    for name, tensor in [*ours.named_parameters(), *ours.named_buffers()]:
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    assert dtype_of("blocks.0.scale_shift_table", dtype) == torch.float32


def test_transformer_that_reads_another_condition_is_refused(tmp_path):
    write_wan_checkpoint(tmp_path, vace_in_channels=96)
    with pytest.raises(ModelError, match="conditions of 96 channels; beside this VAE, 72 are known"):
        load(tmp_path, tmp_path / "cache")


def test_working_dtype_and_compiled_blocks_change_only_last_bits(folder, pipeline, tmp_path):
    whole = made(pipeline)
    half = load(folder, tmp_path, dtype=torch.bfloat16)
    other = made(half)
    assert (other.settings["dtype"], half.transformer.blocks[0].norm2.weight.dtype) == ("bfloat16", torch.float32)
    assert half.vae.dtype == torch.float32 and half.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert 0 < (other.latents - whole.latents).abs().mean() < ROUNDED
    compiled = load(folder, tmp_path)
    compiled.acceleration = accelerate(
        compiled.transformer, device=compiled.device, dtype=compiled.dtype, profile="cpu", compile_blocks=True,
        compiler="eager", text_rows=MAX_LENGTH,
    )  # fmt: skip
    again = made(compiled)
    assert again.settings["compiled"] and torch.equal(again.latents, whole.latents)
    asked = iter([*[False] * 30, *[True] * 99])
    with pytest.raises(JobCancelled):
        made(compiled, Watch(should_stop=lambda: next(asked)))
    assert next(asked) and len(list(asked)) == 97  # asked once more than 30 times


# ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["wan-vace-1.3b", "wan-vace-14b"])
def published(request, tmp_path_factory):
    """A published model's name, and a folder with its true configurations and shapes."""
    return request.param, write_full_wan_headers(request.param, tmp_path_factory.mktemp("full"), torch.float32)


def test_needs_are_those_of_the_true_shapes(published):
    name, folder = published
    needs = NEEDS.at_home(folder, torch.bfloat16, True)
    with torch.device("meta"):
        model = VaceTransformer(**FULL[name])
    sizes = {key: weight.numel() * dtype_of(key, torch.bfloat16).itemsize for key, weight in model.named_parameters()}
    assert needs.transformer == sum(sizes.values())
    names = {id(weight): key for key, weight in model.named_parameters()}
    units = [[sizes[names[id(weight)]] for weight in unit[0].parameters()] for unit in model.streamed_units()]
    assert needs.blocks == sum(map(sum, units)) and len(units) == len(model.blocks) + len(model.vace_blocks)
    assert needs.largest_block >= max(map(sum, units)) and needs.vae == 4 * 126_892_531
    assert needs.text_encoder == 2 * 5_680_910_336


def test_table_agrees_with_the_formulas(published):
    """The registry's figures, for when the files are not there, lie at most 30 % above what the formulas say."""
    name, folder = published
    needs, spec = NEEDS.at_home(folder, torch.bfloat16, True), model_spec(name)
    for profile in ("resident", "drop_text_encoder", "group_offload"):
        assert 1.0 <= spec.memory_bytes[profile] / needs.peak_bytes(profile) <= 1.3, profile
        assert needs.host_bytes(profile) <= spec.host_bytes.get(profile, 0) <= 1.3 * needs.host_bytes(profile), profile
    on_cpu = NEEDS.at_home(folder, torch.float32, True).peak_bytes("cpu")
    assert 1.0 <= spec.memory_bytes["cpu"] / on_cpu <= 1.3


def test_smaller_model_is_planned_for_small_cards(published):
    name, folder = published
    needs, card = NEEDS.at_home(folder, torch.bfloat16, True), 8 * GIBIBYTE
    if name == "wan-vace-1.3b":
        assert plan_memory(needs, torch.device("cuda"), free=card, host_free=24 * GIBIBYTE).profile == "group_offload"
    else:
        with pytest.raises(OutOfMemory):
            plan_memory(needs, torch.device("cuda"), free=card, host_free=24 * GIBIBYTE)
    float8 = NEEDS.at_home(folder, torch.bfloat16, True, float8=True)
    assert float8.transformer < 0.56 * needs.transformer


def test_float8_replaces_the_same_layers_that_are_planned(folder, tmp_path):
    sizes = write_wan_checkpoint(tmp_path / "wide", attention_head_dim=16, num_attention_heads=2)
    model = VaceTransformer.load(sizes / "transformer", dtype=torch.float32, device=torch.device("cpu"))
    assert use_float8(model) == 10 * (3 + 2)
    planned = NEEDS.measure(sizes, torch.float32, Clip(9, 48, 32, False, batch=1), float8=True)
    assert planned.transformer == sum(weight.numel() * weight.element_size() for weight in model.parameters())


def test_doctor_speaks_of_an_installed_model(folder, tmp_path):
    add_model("wan-vace-1.3b", folder, tmp_path)
    report = next(one for one in doctor(tmp_path, device="cpu") if one.model == "wan-vace-1.3b")
    assert report.installed and report.needs["cpu"] > 0
