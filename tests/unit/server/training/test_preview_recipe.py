# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview recipe, from nothing to a checkpoint folder that the pipeline runs, all stages in their processes."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from das_blender_addon.errors import ModelError
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.training.launch import run
from das_server.training.optimiser import build_optimiser
from das_server.training.preview_decoder import slow_down
from das_server.training.recipe import load_recipe

RECIPE = """
kind = "preview"
name = "tiny"
folder = "{folder}"
processes = 1
render_processes = 2
threads = 1
num_textures = 4
texture_seed = 1
samples = 1
clip_sets = [{{frames = 9, height = 16, width = 24, count = 24, seed = 1000}},
             {{frames = 17, height = 24, width = 16, count = 4, seed = 2000}},
             {{frames = 9, height = 16, width = 24, count = 3, dataset = "{dataset}"}}]
validation_sets = [{{frames = 9, height = 16, width = 24, count = 8, seed = 9000}}]

[autoencoder]
batch_size = 1
crop = [16, 24]
train_clips = 16
validation_clips = 2
optimiser = {{name = "muon", learning_rate = 2e-3, matrix_learning_rate = 4e-3}}
loop = {{steps = 5, warmup_steps = 1, validate_every = 5, log_every = 1}}

[transformer]
num_layers = 2
num_tracking_blocks = 1
tokens_per_batch = 60
own_input_from = 0.3
validation_clips = 4
optimiser = {{name = "muon", learning_rate = 1e-3, matrix_learning_rate = 2e-3}}
loop = {{steps = 6, warmup_steps = 1, validate_every = 6, log_every = 1}}

[decoder]
batch_size = 2
crop = [16, 24]
validation_clips = 2
transformer_rate = 0.25
optimiser = {{name = "muon", learning_rate = 1e-3, matrix_learning_rate = 2e-3}}
loop = {{steps = 3, warmup_steps = 1, validate_every = 3, log_every = 1}}
"""
COLOURS = (10, 90, 170, 250)


def export_grey_clips(folder, count):
    """A dataset as the extension exports it, every clip of one grey."""
    for index in range(count):
        for kind in ("videos", "tracking", "carried"):
            clip = folder / kind / f"clip_{index}"
            clip.mkdir(parents=True)
            for frame in range(9):
                seen = (9 * frame,) if kind == "carried" else ()
                Image.new("RGBA" if seen else "RGB", (24, 16), (COLOURS[index],) * 3 + seen).save(
                    clip / f"{frame + 1:04d}.png")
    (folder / "prompt.txt").write_text("grey\n" * count)
    for name, kind in (("videos.txt", "videos"), ("trackings.txt", "tracking")):
        (folder / name).write_text("".join(f"{kind}/clip_{index}\n" for index in range(count)))


STAGES = ("render_first", "autoencoder", "encode_first", "transformer", "decoder", "assemble")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(folder=(folder / "out").as_posix(), dataset=(folder / "clips").as_posix()))
    with pytest.raises(ModelError, match="clips is not a training folder"):  # told before anything is made
        run(path)
    export_grey_clips(folder / "clips", count=4)
    assert run(path) == 0
    return path, load_recipe(path).folder


def test_recipe_leaves_a_checkpoint_that_paints_holes(trained):
    _, folder = trained
    pipeline = DasPipeline.from_pretrained(folder / "checkpoint", device="cpu", vae_tiling=False)
    assert pipeline.carries_first_frame and pipeline.paints_holes
    rng = np.random.default_rng(0)
    tracking = rng.integers(0, 256, (9, 16, 24, 3), dtype=np.uint8)
    image = Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    output = pipeline("", tracking, image, num_inference_steps=1, guidance_scale=1.0,
                      generator=torch.Generator().manual_seed(0))
    assert output.frames.shape == (9, 16, 24, 3)
    assert output.frames.std() > 5  # a picture, not one colour
    assert output.settings["carries_first_frame"] is True


def test_clips_out_of_blender_are_among_the_latents(trained):
    _, folder = trained
    clips = np.load(folder / "clips" / "9x16x24_clips" / "rgb.npy")
    assert clips.shape == (3, 9, 16, 24, 3)
    assert [int(clip.mean()) for clip in clips] == list(COLOURS[:3])
    encoded = folder / "latents" / "clips" / "9x16x24_clips"
    ready = int((encoded / "encoded.txt").read_text())  # those that were encoded before the transformer's stage ended
    assert 1 <= ready <= 3
    carried = np.load(folder / "clips" / "9x16x24_clips" / "carried.npy")
    assert carried[:, :, 0, 0, 3].tolist() == [[9 * frame for frame in range(9)]] * 3
    assert (np.abs(np.load(encoded / "carried.npy")[:ready].astype(np.float32)).reshape(ready, -1).max(1) > 0).all()


def test_decoder_stage_leaves_the_encoder(trained):
    _, folder = trained
    before, after = (load_file(folder / stage / "final" / "diffusion_pytorch_model.safetensors")
                     for stage in ("autoencoder", "decoder"))
    assert before.keys() == after.keys()
    changed = {key.split(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {"decoder"}


def test_transformer_learns_along_and_is_what_the_checkpoint_holds(trained):
    _, folder = trained
    before, after, shipped = (load_file(folder / part / "diffusion_pytorch_model.safetensors")
                              for part in ("transformer/final", "decoder/transformer", "checkpoint/transformer"))
    moved = max((after[key] - before[key]).abs().max().item() for key in before)
    assert 0 < moved < 0.05
    assert all(torch.equal(shipped[key], after[key].half()) for key in after)


def test_slower_module_has_groups_of_its_own():
    both = torch.nn.ModuleDict({"fast": torch.nn.Linear(2, 3), "slow": torch.nn.Linear(3, 2)})
    optimiser = build_optimiser(both, name="muon", learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.1,
                                matrix_learning_rate=2e-3)
    slow_down(optimiser, both["slow"], 0.25)
    rates = {id(p): (group["base_lr"], group.get("muon")) for group in optimiser.param_groups for p in group["params"]}
    assert rates == {id(both["fast"].weight): (2e-3, True), id(both["fast"].bias): (1e-3, False),
                     id(both["slow"].weight): (5e-4, True), id(both["slow"].bias): (2.5e-4, False)}


def test_recipe_logs_what_it_measured(trained):
    _, folder = trained
    header = (folder / "transformer" / "validation.csv").read_text().splitlines()[0].split(",")
    assert {"own", "other", "psnr_carried", "psnr_painted"} <= set(header)
    assert Image.open(folder / "transformer" / "samples" / "000006.png").width == 6 * 24
    assert (folder / "decoder" / "validation.csv").read_text().startswith(
        "step,elapsed_s,psnr_carried,psnr_predicted,psnr_encoded")


def test_finished_recipe_is_not_trained_again_on_resume(trained):
    path, folder = trained
    assert sorted(mark.stem for mark in folder.glob("*.done")) == sorted(STAGES)
    weights = folder / "checkpoint" / "transformer" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(path, resume=True) == 0
    assert weights.stat().st_mtime_ns == before
