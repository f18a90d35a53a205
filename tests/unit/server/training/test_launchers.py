# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes train one model, started by ourselves or by accelerate."""

import sys
from subprocess import run

import numpy as np
import torch
from PIL import Image

from das_blender_addon.errors import WorkerLost
from das_server.models.transformer import DasTransformer3DModel
from das_server.training import launch
from tests.support.checkpoints import model_of_any_size

RECIPE = """
kind = "finetune"
name = "tiny"
folder = "{folder}"
model = "{model}"
dataset = "{dataset}"
processes = 2
num_frames = {frames}
height = {height}
width = {width}
mixed_precision = "no"
sample_every = 100

[optimiser]
learning_rate = 1e-3

[loop]
seed = 1
steps = 2
warmup_steps = 1
log_every = 1
validate_every = 100
"""
FRAMES, HEIGHT, WIDTH = 9, 32, 48
SHARDED_ATOL = 2e-6
"""Sums of gradients in another order, after two steps of 1e-3."""
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no"]


def _write_clips(folder):
    rng = np.random.default_rng(0)
    names = [f"{kind}_{clip}" for kind in ("video", "tracking") for clip in "abc"]
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(FRAMES):
            picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{index:03d}.png")
    for file, lines in (("prompt.txt", ["noise"] * 3), ("videos.txt", names[:3]), ("trackings.txt", names[3:])):
        (folder / file).write_text("\n".join(lines) + "\n")


def test_accelerate_trains_the_same_weights_as_the_own_launcher(tmp_path):
    _write_clips(tmp_path / "clips")
    model = model_of_any_size(tmp_path / "model")
    recipes = {}
    for name in ("own", "accelerate"):
        recipes[name] = tmp_path / f"{name}.toml"
        recipes[name].write_text(RECIPE.format(
            folder=(tmp_path / name).as_posix(), model=model.as_posix(),
            dataset=(tmp_path / "clips").as_posix(), frames=FRAMES, height=HEIGHT, width=WIDTH))
    assert launch.run(recipes["own"]) == 0
    stage = ["-m", "das_server.training.worker", str(recipes["accelerate"]), "finetune"]
    ended = run([sys.executable, *ACCELERATE, *stage], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    own, other, before = (DasTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
                          for folder in (tmp_path / "own", tmp_path / "accelerate", model))
    assert any(not torch.equal(own[key], before[key]) for key in own)
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_sharded_weights_are_trained_as_whole_ones_and_resume(tmp_path):
    """Two processes, each with half of every block, gradient and moment."""
    _write_clips(tmp_path / "clips")
    model = model_of_any_size(tmp_path / "model")

    def trained(name, steps, *, resume=False, shard="true"):
        recipe = tmp_path / f"{name}.toml"
        text = RECIPE.format(folder=(tmp_path / name).as_posix(), model=model.as_posix(), width=WIDTH,
                             dataset=(tmp_path / "clips").as_posix(), frames=FRAMES, height=HEIGHT)
        text = text.replace("processes = 2", f'processes = 2\nshard = {shard}\ntrainable = "all"')
        recipe.write_text(text.replace("steps = 2", f"steps = {steps}", 1))
        try:
            assert launch.run(recipe, resume) == 0
        except WorkerLost:
            raise AssertionError((tmp_path / name / "finetune.0.log").read_text()) from None
        return DasTransformer3DModel.from_pretrained(tmp_path / name / "transformer").state_dict()

    whole = trained("whole", 2, shard="false")
    trained("sharded", 1)
    sharded = trained("sharded", 2, resume=True)
    for key in whole:
        torch.testing.assert_close(sharded[key], whole[key], rtol=0, atol=SHARDED_ATOL)
    before = DasTransformer3DModel.from_pretrained(model / "transformer").state_dict()
    assert max((sharded[key] - before[key]).abs().max().item() for key in before) > 100 * SHARDED_ATOL
