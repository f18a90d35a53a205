# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights side by side in a few large pieces of host memory, pinned where there is room for that.

PyTorch's allocator of pinned memory rounds every piece up to a power of two: tensor by tensor, the full model's blocks
would take 1.8 times their size.  Slabs are powers of two themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from .memory import free_memory

log = logging.getLogger(__name__)

LARGEST_SLAB_BYTES = 1 << 30

ALIGNMENT = 256
"""Bytes; tensors begin at multiples of it, as those of the device's own allocator do at 512."""

PINNED_SHARE = 0.75
"""Of the memory that a machine can give: more is not pinned, since the system can never take it back."""


def pinned_bytes(size_bytes: int) -> int:
    """What PyTorch's pinned allocator takes for one piece of so many bytes."""
    return 1 << max(0, size_bytes - 1).bit_length() if size_bytes else 0


def aligned(size_bytes: int) -> int:
    """``size_bytes`` up to the next multiple of `ALIGNMENT`."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def plan_slabs(sizes: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Bytes of tensors, in order → (bytes of each slab, each tensor's (slab, offset)).  No tensor lies in two."""
    slabs: list[int] = []
    places: list[tuple[int, int]] = []
    used, remaining = 0, sum(aligned(size) for size in sizes)
    for size in sizes:
        if not slabs or used + aligned(size) > slabs[-1]:
            whole = 1 << max(0, remaining.bit_length() - 1)  # what is left gets the next, smaller slab
            slabs.append(max(min(whole, LARGEST_SLAB_BYTES), pinned_bytes(aligned(size))))
            used = 0
        places.append((len(slabs) - 1, used))
        used += aligned(size)
        remaining -= aligned(size)
    return slabs, places


def slab_bytes(sizes: Sequence[int]) -> int:
    """Host memory that tensors of these bytes take in slabs, pinned or not."""
    return sum(plan_slabs(sizes)[0])


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def view_of(piece: torch.Tensor, offset: int, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape and dtype of ``like`` at an offset in bytes of a flat u8 piece of memory."""
    return piece[offset : offset + bytes_of(like)].view(like.dtype).view(like.shape)


def move_into_slabs(tensors: Sequence[torch.Tensor], *, pin: bool) -> list[tuple[int, int]]:
    """Let every tensor's values, wherever they are, lie in slabs of host memory → each one's (slab, offset).

    One after the other, so that at no time both copies are there whole.  ``pin``: where the system allows it.
    """
    sizes, places = plan_slabs([bytes_of(tensor) for tensor in tensors])
    slab, current = torch.empty(0), -1
    for tensor, (index, offset) in zip(tensors, places, strict=True):
        if index != current:
            slab, current = _new_slab(sizes[index], pin), index
            pin = pin and slab.is_pinned()
        place = view_of(slab, offset, tensor)
        place.copy_(tensor.data)
        tensor.data = place
    return places


def can_pin(size_bytes: int, device: torch.device) -> bool:
    """Whether so much is to be pinned for ``device`` on this machine."""
    return device.type == "cuda" and size_bytes <= PINNED_SHARE * free_memory(torch.device("cpu"))


def _new_slab(size_bytes: int, pin: bool) -> torch.Tensor:
    if pin:
        try:
            return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:  # some systems allow half of the memory only
            log.warning("no more memory can be pinned, so the rest is brought more slowly: %s", str(error)[:200])
    return torch.empty(size_bytes, dtype=torch.uint8)


def let_pinned_memory_go() -> None:
    """Give pinned memory that nobody uses any more back to the system, which PyTorch keeps otherwise."""
    give_back = getattr(torch._C, "_host_emptyCache", None)
    if give_back is not None and torch.cuda.is_initialized():
        give_back()
