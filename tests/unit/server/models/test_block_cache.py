# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks that are left out: both branches together, only while the first block says so, and never by default."""

import pytest
import torch

from das_server.models.block_cache import BlockCache
from das_server.models.run_cache import RunCache
from das_server.pipeline.streaming import StreamedBlocks
from tests.support.models import output_of, tiny_inputs, tiny_transformer

ALWAYS = 1e9
"""A threshold below which every change lies."""


@pytest.fixture(scope="module")
def model():
    return tiny_transformer(num_layers=4, num_tracking_blocks=3)


def nudged(inputs: dict, size: float, seed: int = 1) -> dict:
    """Latents a little further on, as one step of the sampler brings them."""
    draw = torch.Generator().manual_seed(seed)
    latents = inputs["hidden_states"]
    return inputs | {"hidden_states": latents + size * torch.randn(latents.shape, generator=draw)}


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours - exact).norm() / exact.norm()).item()


def test_what_is_left_out_of_the_same_pass_is_missed_by_nobody(model):
    """Both branches are taken from before: with the copies run and added again it would be far off."""
    inputs, run = tiny_inputs(model), RunCache(block_cache=BlockCache(0.1, 9))
    exact = output_of(model, inputs)
    assert torch.equal(output_of(model, inputs, run=run), exact)
    assert error(output_of(model, inputs, run=run), exact) < 1e-5
    assert (run.block_cache.computed, run.block_cache.left_out) == (1, 1)


def test_blocks_that_are_left_out_do_not_run(model):
    inputs, ran = tiny_inputs(model), []
    units = [*model.transformer_blocks, *model.transformer_blocks_copy]
    hooks = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(units)]
    run = RunCache(block_cache=BlockCache(ALWAYS, 9))
    try:
        for step in range(2):
            output_of(model, nudged(inputs, 0.01 * step), run=run)
    finally:
        for hook in hooks:
            hook.remove()
    assert sorted(ran) == sorted([*range(7), 0, 4])


def test_a_small_change_is_followed_and_a_large_one_computed(model):
    inputs = tiny_inputs(model)
    later, else_where = nudged(inputs, 0.02), nudged(inputs, 3.0)
    run = RunCache(block_cache=BlockCache(0.1, 9))
    output_of(model, inputs, run=run)
    assert error(output_of(model, later, run=run), output_of(model, later)) < 0.05
    assert run.block_cache.left_out == 1
    assert torch.equal(output_of(model, else_where, run=run), output_of(model, else_where))
    assert (run.block_cache.computed, run.block_cache.left_out) == (2, 1)


def test_small_changes_add_up(model):
    inputs, cache = tiny_inputs(model), BlockCache(0.01, 99)
    run = RunCache(block_cache=cache)
    for step in range(9):
        output_of(model, nudged(inputs, 0.005 * step), run=run)
    assert cache.left_out and cache.computed > 1


def test_no_more_are_left_out_in_a_row_than_allowed(model):
    inputs, cache = tiny_inputs(model), BlockCache(ALWAYS, 2)
    run, pattern = RunCache(block_cache=cache), []
    for _ in range(7):
        before = cache.computed
        output_of(model, inputs, run=run)
        pattern.append(cache.computed > before)
    assert pattern == [True, False, False, True, False, False, True]


def test_another_tracking_video_is_seen_though_blocks_are_left_out(model):
    """The first copy always runs."""
    inputs, cache = tiny_inputs(model), BlockCache(0.1, 9)
    run = RunCache(block_cache=cache)
    output_of(model, inputs, run=run)
    other = inputs | {"tracking_maps": inputs["tracking_maps"].flip(1)}
    run.tracking_tokens = None
    assert torch.equal(output_of(model, other, run=run), output_of(model, other)) and cache.computed == 2


def test_a_row_that_ends_and_comes_back_is_computed_when_it_comes_back(model):
    both, cache = tiny_inputs(model), BlockCache(ALWAYS, 9)
    last = {name: value[1:] if torch.is_tensor(value) else value for name, value in both.items()}
    run = RunCache(block_cache=cache)
    output_of(model, both, run=run)
    run.tracking_tokens = None
    assert error(output_of(model, last, run=run), output_of(model, last)) < 1e-5 and cache.left_out == 1
    run.tracking_tokens = None
    assert torch.equal(output_of(model, both, run=run), output_of(model, both)) and cache.computed == 2


def test_values_that_are_no_numbers_are_computed(model):
    inputs, cache = tiny_inputs(model), BlockCache(ALWAYS, 9)
    run = RunCache(block_cache=cache)
    output_of(model, inputs, run=run)
    output_of(model, inputs | {"hidden_states": inputs["hidden_states"] * float("nan")}, run=run)
    assert cache.computed == 2


def test_blocks_that_come_one_by_one_may_be_left_out(model):
    inputs = tiny_inputs(model)
    exact = output_of(model, inputs)
    streamed = StreamedBlocks(model, model.streamed_units(), torch.device("cpu"))
    try:
        run = RunCache(block_cache=BlockCache(ALWAYS, 1))
        for _ in range(4):
            assert error(output_of(model, inputs, run=run), exact) < 1e-5
        assert (run.block_cache.computed, run.block_cache.left_out) == (2, 2) and streamed.is_at_rest()
    finally:
        streamed.close()
    assert torch.equal(output_of(model, inputs), exact)
