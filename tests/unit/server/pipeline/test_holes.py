# SPDX-License-Identifier: GPL-3.0-or-later
"""A model that paints holes: what it is told of them, and what of its work is used."""

import json
import shutil

import numpy as np
import pytest
import torch

from das_blender_addon.errors import JobRejected, ModelError
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline import acceleration
from das_server.pipeline.cogvideox.holes import HOLE_CHANNELS, difference, pack_holes, paint, paints_holes
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.prompt import PromptCache
from tests.support.models import gradient_clip

VIDEO, PICTURE = gradient_clip(9, 48, 32)
CARRIED = np.flip(VIDEO, axis=2).copy()
HOLES = np.zeros((9, 32, 48), bool)
HOLES[3:, 8:20, 10:30] = True
LEVEL = 1
"""A difference that was rounded to 8 bits."""


def test_every_pixel_of_a_latent_is_in_its_share():
    holes = np.zeros((9, 16, 24), bool)
    holes[5, 6, 9] = True  # the second of the frames 5 to 8; rows 4 to 7, columns 8 to 11, the lower left quarter
    packed = pack_holes(holes, 24, 4)
    assert packed.shape == (3, 24, 4, 6)
    assert torch.nonzero(packed).tolist() == [[2, 0 * 4 + 2, 1, 2]]
    assert packed.max() == 0.25
    assert pack_holes(np.ones((9, 16, 24), bool), 24, 4)[:, :HOLE_CHANNELS].min() == 1
    assert pack_holes(np.ones((9, 16, 24), bool), 24, 4)[:, HOLE_CHANNELS:].max() == 0


def test_first_frame_is_told_four_times():
    holes = np.zeros((9, 16, 24), bool)
    holes[0] = True
    assert pack_holes(holes, 16, 4).mean((1, 2, 3)).tolist() == [1, 0, 0]


def test_vae_without_room_for_holes_is_refused():
    with pytest.raises(ModelError, match="12 channels and 4 pixels per latent cannot be told of holes: 16 channels"):
        pack_holes(HOLES, 12, 4)


def test_difference_brings_the_frames_back_in_the_holes_only():
    rng = np.random.default_rng(0)
    frames = np.clip(CARRIED.astype(int) + rng.integers(-90, 90, CARRIED.shape), 0, 255).astype(np.uint8)
    made = difference(frames, CARRIED, HOLES)
    assert np.abs(made).max() <= 1 and not made[~HOLES].any()
    painted = paint(CARRIED, HOLES, made + 0.3 * ~HOLES[..., None])
    assert np.abs(painted[HOLES].astype(int) - frames[HOLES]).max() <= LEVEL
    np.testing.assert_array_equal(painted[~HOLES], CARRIED[~HOLES])


# ── In the pipeline ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "painter"
    shutil.copytree(PREVIEW_FOLDER, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"paints_holes": True}))
    return folder


@pytest.fixture(scope="module")
def painter(folder, tmp_path_factory):
    return DasPipeline.from_pretrained(folder, prompt_cache=PromptCache(tmp_path_factory.mktemp("prompts")))


def run(pipeline, **options):
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "vae_tiling": False} | options
    return pipeline("", VIDEO, PICTURE, generator=torch.Generator().manual_seed(7), **options)


def test_folder_says_whether_its_model_paints_holes(folder, tmp_path):
    assert paints_holes(folder)
    (tmp_path / "model_index.json").write_text('{"paints_holes": 1}')
    with pytest.raises(ModelError, match="paints_holes is 1, not true or false"):
        paints_holes(tmp_path)


def test_only_holes_are_painted(painter):
    result = run(painter, carried_video=CARRIED, holes=HOLES)
    np.testing.assert_array_equal(result.frames[~HOLES], CARRIED[~HOLES])
    assert not np.array_equal(result.frames[HOLES], CARRIED[HOLES])
    assert result.settings["paints_holes"] is True


def test_model_is_told_where_holes_are(painter):
    seen = []
    hook = painter.transformer.register_forward_pre_hook(
        lambda module, inputs, options: seen.append(options["tracking_maps"]), with_kwargs=True
    )
    try:
        run(painter, carried_video=CARRIED, holes=HOLES)
        run(painter, carried_video=CARRIED)
    finally:
        hook.remove()
    channels = painter.vae.config.latent_channels
    given, all_but_the_first = (maps[0, :, channels:] for maps in seen)
    assert torch.equal(given, pack_holes(HOLES, channels, 4))
    assert all_but_the_first[:, :HOLE_CHANNELS].mean((1, 2, 3)).tolist() == [0, 1, 1]


def test_network_that_adds_nothing_leaves_the_carried_video(painter, monkeypatch):
    nothing = painter.vae.encode(torch.zeros(1, 3, 9, 32, 48)).latent_dist.mode()[0].transpose(0, 1)
    velocity = -nothing[None] * painter.vae.config.scaling_factor
    monkeypatch.setattr(acceleration, "predict", lambda model, **_: velocity)
    steps = []
    result = run(painter, carried_video=CARRIED, holes=HOLES,
                 callback_on_step_end=lambda step, count, x0: steps.append(painter.preview_frames(x0)))
    assert np.abs(result.frames.astype(int) - CARRIED).max() <= 12  # what the autoencoder makes of nothing
    # The preview of the step shows the carried video, not grey.
    small = CARRIED[8].reshape(8, 4, 12, 4, 3).mean((1, 3))
    assert np.corrcoef(steps[0][2].ravel(), small.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("holes", "words"),
    [(HOLES[:5], r"\[5, 32, 48\] and the tracking video \[9, 32, 48, 3\]"), (HOLES.astype(np.uint8), "a bool array")],
)
def test_holes_that_are_none_of_the_clips_are_refused(painter, holes, words):
    with pytest.raises(JobRejected, match=words) as caught:
        run(painter, carried_video=CARRIED, holes=holes)
    assert caught.value.field == "holes"


def test_model_that_paints_none_refuses_holes(painter, monkeypatch):
    monkeypatch.setattr(painter, "paints_holes", False)
    with pytest.raises(JobRejected, match="does not read holes: leave them out"):
        run(painter, carried_video=CARRIED, holes=HOLES)
