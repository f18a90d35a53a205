# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the schedule: kept within a bound, and no other values for it."""

import torch

from das_server.models.transformer import RunCache
from das_server.pipeline.cogvideox.modulation import MAX_KEPT_TIMESTEPS, ModulationTables, table_bytes
from das_server.pipeline.slabs import bytes_of
from tests.support.models import output_of, tiny_inputs, tiny_transformer


def tensors_of(table):
    return [value for pair in (*table.blocks, *table.copies) for value in pair] + [table.last]


def test_a_thousand_timesteps_keep_no_more_than_was_planned():
    model, tables = tiny_transformer(), ModulationTables()
    for timestep in reversed(range(1000)):
        (table,) = tables.of(model, timestep, torch.float32).values()
    kept = tables._kept.values()
    assert sum(bytes_of(value) for one in kept for value in tensors_of(one)) == table_bytes(model.config, torch.float32)
    assert len(kept) == MAX_KEPT_TIMESTEPS and any(one is table for one in kept)


def test_table_that_was_asked_for_lately_is_kept():
    model, tables = tiny_transformer(), ModulationTables()
    first = tables.of(model, 999, torch.float32)[999]
    for timestep in range(MAX_KEPT_TIMESTEPS - 1):
        tables.of(model, timestep, torch.float32)
        assert tables.of(model, 999, torch.float32)[999] is first
    tables.of(model, 998, torch.float32)
    assert tables.of(model, 999, torch.float32)[999] is first
    assert 0 not in tables._kept


def test_values_are_those_without_tables():
    model = tiny_transformer()
    inputs = tiny_inputs(model) | {"timestep": torch.tensor([7])}
    run = RunCache(modulation=ModulationTables().of(model, 7, torch.float32))
    assert torch.equal(output_of(model, inputs, run=run), output_of(model, inputs))
