# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of one training run: who am I, and how are gradients averaged.

Reads the variables that `torchrun` and `accelerate launch` set (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT); without them the run is one process.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import distributed

BUCKET_ELEMENTS = 32 * 1024 * 1024


def is_spread(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is a DTensor, asked without importing its module, which takes a second."""
    return hasattr(tensor, "device_mesh")


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over all processes, in flat buckets of bounded size.

        Parameters that are spread over the processes have such gradients already."""
        parameters = [parameter for parameter in parameters if not is_spread(parameter)]
        if self.size == 1 or not parameters:
            return
        bucket: list[torch.Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
                self._average(bucket)
                bucket = []
        if bucket:
            self._average(bucket)

    def _average(self, gradients: list[torch.Tensor]) -> None:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start:start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.size > 1:
            distributed.barrier()

    def from_first(self, value: float) -> float:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(box, 0)
        return float(box)


def join_ranks() -> Ranks:
    """Join the run described by the environment, with NCCL on GPUs and Gloo on CPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=size)
    return Ranks(rank, size, device)
