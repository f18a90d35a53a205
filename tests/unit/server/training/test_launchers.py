# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes train one model, started by ourselves or by accelerate."""

import sys
from subprocess import run

import numpy as np
import torch
from PIL import Image

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
