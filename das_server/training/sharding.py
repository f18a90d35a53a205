# SPDX-License-Identifier: GPL-3.0-or-later
"""A transformer whose weights, gradients and optimiser are spread over the processes of a run, block by block.

By PyTorch's `fully_shard` (FSDP2), which is what accelerate's FSDP2 plugin calls, too. A block is whole on a device
only while it runs.
"""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .ranks import Ranks


def shard(transformer: torch.nn.Module, ranks: Ranks) -> None:
    """Spread `transformer` over all ranks; before its optimiser is made. Every rank has loaded the same weights.

    Each part has weights of one dtype: the blocks, the linears that join the branches, and the rest."""
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    joints = [*transformer.combine_linears, transformer.initial_combine_linear]
    for part in (*transformer.transformer_blocks, *transformer.transformer_blocks_copy, *joints):
        fully_shard(part, mesh=mesh)
    fully_shard(transformer, mesh=mesh)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be spread; every rank asks at once."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`tensor`, spread as `target` is."""
    tensor = tensor.to(target.device)
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor, target.device_mesh, target.placements)
