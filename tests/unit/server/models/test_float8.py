# SPDX-License-Identifier: GPL-3.0-or-later
"""Float8 linears: near the exact ones, and only where they belong."""

import torch

from das_server.models.float8 import Float8Linear, use_float8
from tests.support.models import output_of, tiny_inputs, tiny_transformer

LAYER_ERROR = 0.06  # float8 e4m3 keeps 3 bits after the first: up to 6 % per value, less after summing


def relative_error(ours, exact):
    return ((ours - exact).square().mean() / exact.square().mean()).sqrt().item()


def test_layer_is_near_the_exact_one():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48)
    x = torch.randn(2, 5, 64) * torch.logspace(-3, 3, 5)[None, :, None]  # rows of very different size
    ours, exact = Float8Linear(linear)(x), linear(x)
    assert ours.shape == exact.shape and ours.dtype == exact.dtype
    for row in range(5):
        assert relative_error(ours[:, row], exact[:, row]) < LAYER_ERROR


def test_zero_rows_stay_finite():
    assert torch.equal(Float8Linear(torch.nn.Linear(8, 4, bias=False))(torch.zeros(3, 8)), torch.zeros(3, 4))


def test_model_keeps_its_other_layers_exact():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    exact = output_of(model, inputs)
    assert use_float8(model) == 5 * 6  # q, k, v, out and two of the feed-forward, in 3 + 2 blocks
    assert type(model.combine_linears[0]) is type(model.proj_out) is type(model.time_embedding.linear_1)
    assert 0 < relative_error(output_of(model, inputs), exact) < 0.5
