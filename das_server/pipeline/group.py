# SPDX-License-Identifier: GPL-3.0-or-later
"""Several devices that make one clip: one process each, the first of which leads.

Words go to the others as lines of JSON, tensors by PyTorch's own broadcasts; nothing is pickled.  Whatever goes wrong
in one of them ends all: they are one worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

POLL_S = 0.01
LONGEST_WAIT = timedelta(hours=1)
"""For another rank: loading is among what they wait for."""


class OutOfStep(RuntimeError):
    """Something went wrong on one of the devices in the middle of what all of them do: none can go on."""


class Group:
    """Rank ``rank`` of ``size``; ``meeting``: a URL of a file that all of them know.  ``tell``: sends a line to the
    other ranks, for rank 0."""

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        meeting: str,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.rank, self.size, self.device, self._tell = rank, size, device, tell
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, init_method=meeting, rank=rank, world_size=size, timeout=LONGEST_WAIT
        )
        self._mesh: Any = None

    def tell(self, kind: str, **fields: Any) -> None:
        """Say what all do next."""
        self._tell(json.dumps({"kind": kind, **fields}))

    def send(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Rank 0's tensors to all others, which know their `shapes`."""
        for tensor in tensors.values():
            distributed.broadcast(tensor.to(self.device).contiguous(), 0)

    def receive(self, shapes: Mapping[str, tuple[str, list[int]]]) -> dict[str, torch.Tensor]:
        """What rank 0 sends."""
        return {
            name: self.from_rank(0, torch.empty(shape, dtype=getattr(torch, dtype), device=self.device))
            for name, (dtype, shape) in shapes.items()
        }

    def from_rank(self, rank: int, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` of that rank, on all ranks; the others give one of its shape."""
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, rank)
        return tensor

    def await_from_rank(self, rank: int, tensor: torch.Tensor, meanwhile: Callable[[], None]) -> torch.Tensor:
        """`from_rank` for one that has nothing else to do and calls ``meanwhile`` now and then."""
        tensor = tensor.contiguous()
        sent = distributed.broadcast(tensor, rank, async_op=True)
        while not sent.is_completed():
            meanwhile()
            time.sleep(POLL_S)
        sent.wait()
        return tensor

    def agree(self, wanted: bool) -> bool:
        """What rank 0 wants, on all ranks at once."""
        return bool(self.from_rank(0, torch.tensor([wanted], dtype=torch.uint8, device=self.device)).item())

    def wait(self) -> None:
        """Return when all ranks have come here."""
        distributed.barrier()

    def split(self, transformer: Any, *, evenly: bool) -> None:
        """Have each rank compute its part of the tokens, by the transformer's own plan.  ``evenly``: all parts are of
        one length.

        What ``enable_parallelism`` of diffusers 0.42 does, which divides by the number of accelerators.
        """
        from diffusers.hooks.context_parallel import apply_context_parallel
        from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig

        if self._mesh is None:
            self._mesh = distributed.device_mesh.init_device_mesh(
                self.device.type, (1, self.size), mesh_dim_names=("ring", "ulysses")
            )
        config = ParallelConfig(ContextParallelConfig(ulysses_degree=self.size, ulysses_anything=not evenly))
        config.setup(self.rank, self.size, self.device, mesh=self._mesh)
        for processor in transformer.attn_processors.values():
            processor._parallel_config = config
        apply_context_parallel(transformer, config.context_parallel_config, transformer._cp_plan)

    def join(self, transformer: Any) -> None:
        """Undo `split`."""
        from diffusers.hooks.context_parallel import remove_context_parallel

        remove_context_parallel(transformer, transformer._cp_plan)
        for processor in transformer.attn_processors.values():
            processor._parallel_config = None


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, list[int]]]:
    """What `Group.receive` must know, in JSON's kinds."""
    return {name: (str(one.dtype).removeprefix("torch."), list(one.shape)) for name, one in tensors.items()}
