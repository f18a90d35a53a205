# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: schedule, averages, logs, and resuming bit for bit; the optimiser."""

import csv
import shutil

import pytest
import torch

from das_server.training.loop import LoopSettings, TrainingLoop
from das_server.training.optimiser import MuonAdamW, build_optimiser
from das_server.training.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def _model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.SiLU(), torch.nn.Linear(16, 6))


def _loop(folder, name="muon", **settings):
    model = _model()
    optimiser = build_optimiser(model, name=name, learning_rate=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    options = {"seed": 3, "steps": 12, "warmup_steps": 2, "checkpoint_every": 4, "log_every": 2, "validate_every": 6}
    return TrainingLoop(model, optimiser, LoopSettings(**{**options, **settings}), folder, ALONE)


def _step_loss(loop):
    def loss(context):
        x = torch.randn(4, 6, generator=context.generator) + float(context.rng.random() + context.shared.random())
        return (loop.module(x) - x.flip(1)).square().mean(), {"input": x.mean().item()}
    return loss


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, name, accumulate):
    whole = _loop(tmp_path / "whole", name, accumulate=accumulate)
    whole.run(_step_loss(whole))

    broken = _loop(tmp_path / "broken", name, accumulate=accumulate)
    inner = _step_loss(broken)

    def interrupt(context):
        if context.step == 7:  # three steps after the last checkpoint
            raise _Interrupted
        return inner(context)

    with pytest.raises(_Interrupted):
        broken.run(interrupt)
    again = _loop(tmp_path / "broken", name, accumulate=accumulate)
    assert again.resume()
    assert again.step == 4
    again.run(_step_loss(again))
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[key]), key
    for key, value in whole.averaged_weights().items():
        assert torch.equal(value, again.averaged_weights()[key]), key


@pytest.mark.parametrize("left_of_last", [(), ("state.json",), ("weights.safetensors", "average.safetensors")])
def test_resume_takes_the_new_checkpoint_when_killed_before_the_swap(tmp_path, left_of_last):
    loop = _loop(tmp_path, steps=4)
    loop.run(_step_loss(loop))
    last = tmp_path / "last"
    shutil.copytree(last, tmp_path / "last.new")
    for path in last.iterdir():
        if path.name not in left_of_last:
            path.unlink()
    again = _loop(tmp_path)
    assert again.resume()
    assert again.step == 4
    again.save()
    assert sorted(path.name for path in tmp_path.glob("last*")) == ["last"]
    assert _loop(tmp_path).resume()


def test_resume_prefers_a_whole_checkpoint_to_an_unfinished_new_one(tmp_path):
    loop = _loop(tmp_path, steps=4)
    loop.run(_step_loss(loop))
    shutil.copytree(tmp_path / "last", tmp_path / "last.new")
    (tmp_path / "last.new" / "state.json").write_text("")
    assert _loop(tmp_path).resume()
    shutil.rmtree(tmp_path / "last")
    assert not _loop(tmp_path).resume()


def test_resume_says_so_when_there_is_no_checkpoint(tmp_path):
    assert not _loop(tmp_path).resume()


def test_training_lowers_the_loss_and_logs_it(tmp_path):
    loop = _loop(tmp_path, steps=200, hold=0.5)
    loop.run(_step_loss(loop))
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["loss"]) < 0.3 * float(rows[0]["loss"])
    assert int(rows[-1]["step"]) == 200


def test_validation_is_called_and_written(tmp_path):
    loop = _loop(tmp_path)
    loop.run(_step_loss(loop), lambda running: {"at": running.step})
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [row["at"] for row in rows] == ["6", "12"]


def test_average_differs_from_weights_and_follows_them(tmp_path):
    loop = _loop(tmp_path, steps=50)
    start = {key: value.clone() for key, value in loop.average.items()}
    loop.run(_step_loss(loop))
    weight = loop.trainable["0.weight"]
    assert not torch.equal(loop.average["0.weight"], weight)
    assert (loop.average["0.weight"] - weight).norm() < (start["0.weight"] - weight).norm()


def test_rate_warms_up_holds_and_falls(tmp_path):
    loop = _loop(tmp_path, steps=100, warmup_steps=10, hold=0.5, schedule="linear")
    rates = []
    for loop.step in (0, 9, 49, 74, 99):
        rates.append(loop._rate(loop._progress()))
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.52, 0.02])


def test_loop_needs_steps_or_minutes(tmp_path):
    with pytest.raises(ValueError, match="either steps or minutes"):
        _loop(tmp_path, minutes=1)


def test_muon_moves_a_matrix_by_a_nearly_orthogonal_step():
    weight = torch.nn.Parameter(torch.zeros(8, 24))
    optimiser = MuonAdamW([{"params": [weight], "muon": True, "weight_decay": 0.0}], lr=1.0)
    weight.grad = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    singular = torch.linalg.svdvals(weight.detach() / (0.2 * 24**0.5))
    assert singular.min() > 0.4
    assert singular.max() < 1.4


def test_adamw_part_equals_torch_adamw():
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    settings = {"lr": 0.1, "betas": (0.9, 0.98), "weight_decay": 0.05}
    optimisers = (MuonAdamW([{"params": [ours]}], **settings), torch.optim.AdamW([theirs], **settings))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        ours.grad = torch.randn(5, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(ours, theirs)
