# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes train one model, started by ourselves or by accelerate."""

import sys
from subprocess import run

import numpy as np
import pytest
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


class Folder:
    """A model, clips, and what is trained of them."""

    def __init__(self, folder):
        self.folder = folder
        self.model = model_of_any_size(folder / "model")
        _write_clips(folder / "clips")

    def recipe(self, name, *, steps=2, shard="false"):
        text = RECIPE.format(folder=(self.folder / name).as_posix(), model=self.model.as_posix(), width=WIDTH,
                             dataset=(self.folder / "clips").as_posix(), frames=FRAMES, height=HEIGHT)
        text = text.replace("processes = 2", f'processes = 2\nshard = {shard}\ntrainable = "all"')
        path = self.folder / f"{name}.toml"
        path.write_text(text.replace("steps = 2", f"steps = {steps}", 1))
        return path

    def train(self, name, *, resume=False, **how):
        try:
            assert launch.run(self.recipe(name, **how), resume) == 0
        except WorkerLost:
            raise AssertionError((self.folder / name / "finetune.0.log").read_text()) from None
        return self.weights(name)

    def weights(self, name):
        return DasTransformer3DModel.from_pretrained(self.folder / name / "transformer").state_dict()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """(folder, weights that two processes of our own have trained, whole)."""
    folder = Folder(tmp_path_factory.mktemp("own"))
    return folder, folder.train("own")


def test_accelerate_trains_the_same_weights_as_the_own_launcher(own):
    folder, trained = own
    stage = ["-m", "das_server.training.worker", str(folder.recipe("accelerate")), "finetune"]
    ended = run([sys.executable, *ACCELERATE, *stage], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    other, before = folder.weights("accelerate"), folder.weights("model")
    assert all(not torch.equal(trained[key], before[key]) for key in trained if key.endswith("weight"))
    assert all(torch.equal(trained[key], other[key]) for key in trained)


def test_sharded_weights_are_trained_as_whole_ones_and_resume(own):
    """Two processes, each with half of every block, gradient and moment."""
    folder, whole = own
    folder.train("sharded", steps=1, shard="true")
    sharded = folder.train("sharded", shard="true", resume=True)
    for key in whole:
        torch.testing.assert_close(sharded[key], whole[key], rtol=0, atol=SHARDED_ATOL)
    before = folder.weights("model")
    assert max((sharded[key] - before[key]).abs().max().item() for key in before) > 100 * SHARDED_ATOL
