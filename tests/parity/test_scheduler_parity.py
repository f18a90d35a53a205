# SPDX-License-Identifier: GPL-3.0-or-later
"""Sampler tables, single steps, dynamic guidance and number of draws against the published ones."""

import pytest
import torch

from das_server.models.registry import EXACT_STEPS
from das_server.pipeline.cogvideox.scheduler import guidance_at, load_scheduler
from tests.parity.golden_data import PIPELINE_MODEL, max_difference, read_json, tensors
from tests.parity.tolerances import NOISE_SCHEDULE_ATOL, STEP_ATOL, guidance_atol

TABLE = read_json("scheduler/dpm_trailing")["table"]


@pytest.fixture
def scheduler():
    return load_scheduler(PIPELINE_MODEL / "scheduler")


def test_noise_schedule_equals_published(scheduler):
    golden = tensors("scheduler/dpm_steps")["alphas_cumprod"]
    assert scheduler.alphas_cumprod.dtype == torch.float64
    assert max_difference(scheduler.alphas_cumprod, golden) <= NOISE_SCHEDULE_ATOL


@pytest.mark.parametrize("num_steps", TABLE)
def test_timesteps_and_guidance_equal_published(scheduler, num_steps):
    golden, count = TABLE[num_steps], int(num_steps)
    scheduler.set_timesteps(count)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps == golden["timesteps"]
    for timestep, published in zip(timesteps, golden["dynamic_guidance"], strict=True):
        ours = guidance_at(timestep, count, 6.0, dynamic=True)
        assert ours == pytest.approx(published, rel=0, abs=guidance_atol(count, timestep, 6.0))


def test_exact_counts_are_those_whose_steps_meet():
    """A count is exact when every step ends where the next begins and the last one ends before the schedule does."""
    for num_steps, golden in TABLE.items():
        ends = golden["prev_timesteps"]
        meets = ends == [*golden["timesteps"][1:], -1]
        assert meets == (int(num_steps) in EXACT_STEPS), num_steps


@pytest.mark.parametrize(
    ("num_steps", "index"), [(50, 0), (50, 1), (50, 25), (50, 48), (50, 49), (7, 0), (7, 3), (7, 6)]
)
def test_single_step_equals_published(scheduler, num_steps, index):
    golden = {
        key.removeprefix(f"n{num_steps}_i{index}_"): value
        for key, value in tensors("scheduler/dpm_steps").items()
        if key.startswith(f"n{num_steps}_i{index}_")
    }
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()
    previous, x0 = scheduler.step(
        golden["v"],
        golden["old_x0"] if index else None,
        timesteps[index],
        timesteps[index - 1] if index else None,
        golden["sample"],
        generator=torch.Generator().manual_seed(99),
        return_dict=False,
    )
    assert max_difference(previous, golden["prev"]) <= STEP_ATOL
    assert max_difference(x0, golden["x0"]) <= STEP_ATOL
