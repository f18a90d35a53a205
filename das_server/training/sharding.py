# SPDX-License-Identifier: GPL-3.0-or-later
"""A transformer whose weights, gradients and optimiser are spread over the processes of a run, block by block.

By PyTorch's `fully_shard` (FSDP2), which is what accelerate's FSDP2 plugin calls, too. A block is whole on a device
only while it runs.  What else is here serves weights that are whole, too, so that only who spreads imports all that.
"""

from pathlib import Path

import torch
from safetensors import safe_open

from .ranks import Ranks, is_spread


def shard(transformer: torch.nn.Module, ranks: Ranks) -> None:
    """Spread `transformer`, whose weights may still be on the meta device, over all ranks; before its optimiser is
    made.

    Each part has weights of one dtype: the blocks, the linears that join the branches, and the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    joints = [*transformer.combine_linears, transformer.initial_combine_linear]
    for part in (*transformer.transformer_blocks, *transformer.transformer_blocks_copy, *joints):
        fully_shard(part, mesh=mesh)
    fully_shard(transformer, mesh=mesh)


def fill(transformer: torch.nn.Module, files: list[Path], device: torch.device) -> None:
    """Give a spread model on the meta device its weights out of safetensors files: a rank has its own part of each, and
    of one at a time the whole."""
    buffers = dict(transformer.named_buffers())
    transformer.to_empty(device=device)
    targets = dict(transformer.named_parameters()) | dict(transformer.named_buffers())
    with torch.no_grad():
        for name, value in buffers.items():  # some are computed and in no file
            targets[name].copy_(value)
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 — it is no dictionary
                    target = targets[name]
                    target.copy_(like(file.get_tensor(name).to(target.dtype), target))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be spread; every rank asks at once."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_spread(tensor) else tensor


def like(tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`tensor`, spread as `target` is."""
    tensor = tensor.to(target.device)
    if not is_spread(target):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every rank has all of it and takes its own part: nothing is sent.
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)
