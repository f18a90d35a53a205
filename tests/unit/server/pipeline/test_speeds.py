# SPDX-License-Identifier: GPL-3.0-or-later
"""Speeds: exact leaves nothing out, the others say what they left out, and both ways of guidance are the same clip."""

from dataclasses import replace

import pytest
import torch

from das_blender_addon.errors import JobCancelled, JobRejected, OutOfMemory
from das_server.models.families import model_family
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline import memory
from das_server.pipeline.cogvideox import pipeline as pipelines
from das_server.pipeline.cogvideox.needs import NEEDS
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.cogvideox.scheduler import guidance_at
from das_server.pipeline.cogvideox.speeds import SPEEDS, Speed
from das_server.pipeline.needs import Clip
from das_server.pipeline.prompt import PromptCache
from das_server.pipeline.resume import Checkpoint
from tests.support.models import gradient_clip

VIDEO, PICTURE = gradient_clip(9, 48, 32)
ROWS_ATOL = 1e-5
"""A batch of two and two of one add in another order."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return DasPipeline.from_pretrained(
        PREVIEW_FOLDER, device="cpu", prompt_cache=PromptCache(tmp_path_factory.mktemp("prompts"))
    )


def run(pipeline, **options):
    options = {"num_inference_steps": 10, "guidance_scale": 6.0, "output_type": "latent"} | options
    return pipeline("a boat", VIDEO, PICTURE, generator=torch.Generator().manual_seed(7), **options)


class Counted:
    """How many rows the transformer computed in each pass."""

    def __init__(self, pipeline):
        self.rows, self._model = [], pipeline.transformer

    def __enter__(self):
        self._hook = self._model.register_forward_pre_hook(
            lambda module, args, kwargs: self.rows.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
        )
        return self.rows

    def __exit__(self, *problem):
        self._hook.remove()


def test_the_table_has_what_servers_offer():
    assert tuple(SPEEDS) == model_family("cogvideox").speeds
    assert [SPEEDS[name].is_exact for name in SPEEDS] == [True, False, False]


def test_exact_is_the_default_and_leaves_nothing_out(pipeline):
    with Counted(pipeline) as rows:
        result = run(pipeline)
    assert rows == [2] * 10 and result.settings["speed"] == "exact" and "passes_left_out" not in result.settings
    assert torch.equal(run(pipeline, speed="exact").latents, result.latents)


def test_a_speed_says_what_it_has_left_out(pipeline):
    with Counted(pipeline) as rows:
        result = run(pipeline, speed="fast", num_inference_steps=40)
    said = result.settings
    assert said["speed"] == "fast" and said["steps_made"] == len(rows) == 40
    assert said["guided_steps"] == rows.count(2) < 40
    assert said["passes_left_out"] + said["passes_computed"] == 40 and said["passes_left_out"] > 0
    assert torch.equal(run(pipeline, speed="fast", num_inference_steps=40).latents, result.latents)


def test_fewer_steps_keep_the_guidance_of_those_that_were_asked_for(pipeline, monkeypatch):
    monkeypatch.setitem(SPEEDS, "preview", Speed(steps=0.5))
    seen = []

    def note(pipeline, index, timestep, tensors):
        seen.append(int(timestep))

    result = run(pipeline, speed="preview", num_inference_steps=50, callback_on_step_end=note)
    assert result.settings["steps_made"] == len(seen) == 25
    pipeline.scheduler.set_timesteps(50)
    assert set(seen) <= {int(timestep) for timestep in pipeline.scheduler.timesteps}


@pytest.mark.parametrize(
    ("asked", "made"), [(1, 1), (4, 4), (8, 8), (10, 8), (20, 10), (25, 10), (50, 25), (100, 50), (1000, 500)]
)
def test_step_counts_divide_the_schedule(asked, made):
    assert SPEEDS["preview"].num_steps(asked) == made
    assert SPEEDS["exact"].num_steps(asked) == SPEEDS["fast"].num_steps(asked) == asked


def test_guidance_counts_where_it_is_far_from_1():
    """Of the published schedule's 50 steps, those whose guidance is nearly none."""
    scales = [guidance_at(999 - 20 * index, 50, 6.0, dynamic=True) for index in range(50)]
    guided = [SPEEDS["fast"].is_guided(index, 50, scale, dynamic=True) for index, scale in enumerate(scales)]
    assert all(guided[index] == (abs(scale - 1) >= SPEEDS["fast"].guidance) for index, scale in enumerate(scales))
    assert 35 < sum(guided) < 50
    assert sum(SPEEDS["fast"].is_guided(index, 50, 6.0, dynamic=False) for index in range(50)) == 40
    assert all(SPEEDS["exact"].is_guided(index, 50, scale, dynamic=True) for index, scale in enumerate(scales))


def test_the_last_step_is_always_computed(pipeline, monkeypatch):
    monkeypatch.setitem(SPEEDS, "fast", Speed(threshold=1e9, most_in_a_row=1000))
    said = run(pipeline, speed="fast").settings
    assert (said["passes_left_out"], said["passes_computed"]) == (8, 2)


def test_a_speed_that_there_is_not_is_refused(pipeline):
    with pytest.raises(JobRejected, match="speed is 'warp': use exact, fast, preview"):
        run(pipeline, speed="warp")


def test_rows_of_guidance_follow_each_other_where_they_have_no_room_together(pipeline, monkeypatch):
    together = run(pipeline)
    # As with the full model in tiles: the VAE needs less than both rows.
    needs = replace(NEEDS, encoding=lambda *_: 0, decoding=lambda *_: 0)
    monkeypatch.setattr(pipelines, "NEEDS", needs)
    two = needs.of(pipeline, Clip(9, 48, 32, pipeline.vae_tiling, batch=2)).denoising
    monkeypatch.setattr(memory, "free_memory", lambda device: two - 1)
    with Counted(pipeline) as rows:
        in_turn = run(pipeline)
    assert rows == [1] * 20
    assert (together.settings["rows"], in_turn.settings["rows"]) == ("together", "in turn")
    torch.testing.assert_close(in_turn.latents, together.latents, rtol=0, atol=ROWS_ATOL)
    with Counted(pipeline) as rows:
        said = run(pipeline, speed="fast", num_inference_steps=40).settings
    assert len(rows) == said["passes_left_out"] + said["passes_computed"] == 40 + said["guided_steps"]
    monkeypatch.setattr(memory, "free_memory", lambda device: two // 2 - 1)
    with pytest.raises(OutOfMemory):
        run(pipeline)


def test_a_clip_of_another_speed_begins_anew_where_it_was_broken_off(pipeline, tmp_path):
    """What blocks added before is in no checkpoint, and the bytes are to be those of a clip made in one go."""
    expected, steps = run(pipeline, speed="fast"), []
    path = tmp_path / "job.safetensors"

    watch = {"should_stop": lambda: len(steps) == 5, "callback_on_step_end": lambda index, of, x0: steps.append(index)}
    with pytest.raises(JobCancelled):
        run(pipeline, speed="fast", checkpoint=Checkpoint(path, {}, every_s=0.0), **watch)
    assert path.is_file()
    assert torch.equal(run(pipeline, speed="fast", checkpoint=Checkpoint(path, {})).latents, expected.latents)
