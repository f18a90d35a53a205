# SPDX-License-Identifier: GPL-3.0-or-later
"""Spread weights: how much of a model is in memory while it is loaded, saved and read again."""

import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.tensor import DTensor

from das_server.models.tensors import read_component_config, weight_files
from das_server.models.transformer import DasTransformer3DModel
from das_server.models.weights import without_weights
from das_server.training import tensor_files
from das_server.training.ranks import Ranks
from das_server.training.sharding import fill, shard, whole
from das_server.training.tensor_files import read_tensors, write_tensors
from tests.support.checkpoints import model_of_any_size
from tests.support.live_memory import LiveBytes


@pytest.fixture
def alone(tmp_path):
    """A run of one process that is a run of several in all else."""
    distributed.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    distributed.destroy_process_group()


def test_spread_model_is_loaded_part_by_part(alone, tmp_path):
    """With its own shard, here all of it, no rank ever has more than one whole tensor."""
    folder = model_of_any_size(tmp_path / "model") / "transformer"
    expected = DasTransformer3DModel.from_pretrained(folder).state_dict()
    size_bytes = sum(value.numel() * 4 for value in expected.values())
    largest = max(value.numel() * 4 for value in expected.values())
    with LiveBytes([]) as live:
        with without_weights():
            model = DasTransformer3DModel.from_config(read_component_config(folder))
        before = live.now  # what is made on the way has no place any more
        shard(model, alone)
        live.peak = live.now
        fill(model, weight_files(folder), alone.device)
    assert all(isinstance(value, DTensor) and value.device.type == "cpu" for value in model.parameters())
    found = {name: whole(value) for name, value in model.state_dict().items()}
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert live.peak <= before + size_bytes + 3 * largest


def test_only_one_tensor_is_whole_while_they_are_written(tmp_path, monkeypatch):
    tensors = {"a": torch.randn(4, 3), "step": torch.tensor(3.0, dtype=torch.float64), "c": torch.randn(5).bfloat16()}
    tensors |= {"count": torch.tensor([1, 2]), "none": torch.zeros(0, 2), "turned": torch.randn(3, 2).T}
    alive, most = weakref.WeakSet(), []

    def put_together(tensor):
        value = tensor.clone(memory_format=torch.contiguous_format)
        alive.add(value)
        most.append(len(alive))
        return value

    monkeypatch.setattr(tensor_files, "whole", put_together)
    write_tensors(tmp_path / "ours.safetensors", tensors)
    assert max(most) == 1 and len(most) == len(tensors)
    write_tensors(None, tensors)  # of a rank that only helps
    assert len(most) == 2 * len(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "theirs.safetensors")
    ours, theirs = load_file(tmp_path / "ours.safetensors"), load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys() == dict(read_tensors(tmp_path / "ours.safetensors")).keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
