# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks that come one by one: the same results, and nothing but two slots on the device."""

import pytest
import torch

from das_server.models.float8 import use_float8
from das_server.models.transformer import RunCache
from das_server.pipeline.slabs import aligned, bytes_of, move_into_slabs, pinned_bytes, plan_slabs
from das_server.pipeline.streaming import StreamedBlocks
from tests.support.models import output_of, tiny_inputs, tiny_transformer

CPU = torch.device("cpu")


def weights_of(model):
    return [*model.parameters(), *model.buffers()]


@pytest.mark.parametrize("slabs", [True, False])
@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("copies", [2, 3])  # an odd number of units, and an even one
def test_streamed_model_gives_the_same_bits(slabs, float8, copies):
    model = tiny_transformer(num_tracking_blocks=copies)
    if float8:
        assert use_float8(model) > 0
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    streamed = StreamedBlocks(model, model.streamed_units(), CPU, slabs=slabs)
    run = RunCache()
    for _ in range(2):
        assert torch.equal(output_of(model, inputs, run=run), expected)
    streamed.close()
    assert torch.equal(output_of(model, inputs), expected)


@pytest.mark.parametrize("float8", [False, True])
def test_device_holds_two_slots_after_a_pass(float8):
    """Also of blocks in float8, whose values are not in the dtype of the rest."""
    model = tiny_transformer()
    if float8:
        use_float8(model)
    units = [[w for module in unit for w in weights_of(module)] for unit in model.streamed_units()]
    homes = [weight for unit in units for weight in unit]
    stays = sum(map(bytes_of, weights_of(model))) - sum(map(bytes_of, homes))
    streamed = StreamedBlocks(model, model.streamed_units(), CPU)
    output_of(model, tiny_inputs(model))
    largest = max(sum(aligned(bytes_of(weight)) for weight in unit) for unit in units)
    assert streamed.device_bytes() == stays + 2 * largest
    assert streamed.is_at_rest()
    assert len({weight.untyped_storage().data_ptr() for weight in homes}) == len(plan_slabs(
        [bytes_of(w) for unit in units for w in sorted(unit, key=bytes_of, reverse=True)])[0])  # fmt: skip


def test_pass_that_broke_off_spoils_nothing():
    model = tiny_transformer()
    inputs = tiny_inputs(model)
    expected = output_of(model, inputs)
    streamed = StreamedBlocks(model, model.streamed_units(), CPU)

    def fail(module, args):
        raise MemoryError

    hook = model.transformer_blocks[1].attn1.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError):
        output_of(model, inputs)
    assert not streamed.is_at_rest()
    hook.remove()
    assert torch.equal(output_of(model, inputs), expected)
    assert streamed.is_at_rest()


def test_slabs_are_powers_of_two_that_tensors_share():
    sizes = [75 << 20, 18 << 20, 300, 1 << 28, 5, 3 << 29] * 4
    slabs, places = plan_slabs(sizes)
    assert [pinned_bytes(size) for size in slabs] == slabs
    assert sum(slabs) < 1.3 * sum(sizes) < sum(map(pinned_bytes, sizes))
    assert all(offset % 256 == 0 and offset + size <= slabs[slab]
               for size, (slab, offset) in zip(sizes, places, strict=True))  # fmt: skip


def test_moving_into_slabs_keeps_values_shapes_and_dtypes():
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(7, 3, generator=draw), torch.randn(5, generator=draw).to(torch.float8_e4m3fn),
               torch.tensor(2.5, dtype=torch.bfloat16), torch.randn(4, 4, generator=draw).T]  # fmt: skip
    before = [tensor.clone() for tensor in tensors]
    move_into_slabs(tensors, pin=False)
    for tensor, old in zip(tensors, before, strict=True):
        assert tensor.dtype == old.dtype and torch.equal(tensor.float(), old.float())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) <= 3
