# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks whose weights rest in host memory and come to the device one after the other, the next one while one runs.

On the device there are two slots of the size of the largest unit; units take them in turns, in the order in which they
run, each copied in a piece or two where it lies in slabs.  Parameters and buffers of any dtype move alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from .memory import NUM_SLOTS
from .slabs import aligned, bytes_of, can_pin, move_into_slabs, slab_bytes, view_of


@dataclass
class _Unit:
    """Modules that run one after the other and come together.  ``offsets``: of each tensor in a slot."""

    modules: tuple[torch.nn.Module, ...]
    tensors: list[torch.Tensor]
    offsets: list[int]
    size_bytes: int
    resting: list[torch.Tensor] = field(default_factory=list)
    pieces: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    """Flat u8 host memory and its offset in a slot: what is copied at once."""


class StreamedBlocks:
    """``units`` of ``model`` streamed to ``device``, everything else of it there to stay.

    ``units``: modules that run together, in the order in which they run; every pass runs all of them.  ``slabs``: lay
    the weights into slabs, pinned where `slabs.can_pin` says so; otherwise they are read from where they are, which may
    be a file that is mapped into memory.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        units: Iterable[Sequence[torch.nn.Module]],
        device: torch.device,
        *,
        slabs: bool = True,
    ):
        self.device = device
        self._model = model
        self._units = [_unit_of(modules) for modules in units]
        streamed = [tensor for unit in self._units for tensor in unit.tensors]
        self._rest(streamed, slabs)
        resting = {id(tensor) for tensor in streamed}
        for tensor in _tensors_of(model):
            if id(tensor) not in resting:
                tensor.data = tensor.data.to(device)
        self._slots = [self._new_slot() for _ in range(min(NUM_SLOTS, len(self._units)))]
        self._held: list[int | None] = [None] * len(self._slots)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for slot in self._slots if self._stream else ():
            slot.record_stream(self._stream)
        self._hooks = [hook for index in range(len(self._units)) for hook in self._watch(index)]

    def device_bytes(self) -> int:
        """Memory of the device that the model takes: the slots, and what stays there."""
        streamed = {id(tensor) for unit in self._units for tensor in unit.tensors}
        stays = {id(tensor): bytes_of(tensor) for tensor in _tensors_of(self._model) if id(tensor) not in streamed}
        return sum(slot.numel() for slot in self._slots) + sum(stays.values())

    def is_at_rest(self) -> bool:
        """Whether no tensor of a unit is on the device, other than in a slot that will be used again."""
        return all(
            tensor.data_ptr() == home.data_ptr()
            for unit in self._units
            for tensor, home in zip(unit.tensors, unit.resting, strict=True)
        )

    def close(self) -> None:
        """Stop streaming: all units rest in host memory, the slots are free."""
        for hook in self._hooks:
            hook.remove()
        for index in range(len(self._units)):
            self._leave(index)
        self._hooks, self._slots, self._held = [], [], []

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rest(self, tensors: list[torch.Tensor], slabs: bool) -> None:
        """Bring the units' tensors into host memory, and find what can be copied in one piece."""
        if slabs:
            pin = can_pin(slab_bytes([bytes_of(tensor) for tensor in tensors]), self.device)
            move_into_slabs(tensors, pin=pin)
        for unit in self._units:
            for tensor, offset in zip(unit.tensors, unit.offsets, strict=True):
                home = tensor.data if tensor.device.type == "cpu" else tensor.data.cpu()
                tensor.data = home = home.contiguous()
                unit.resting.append(home)
                _add_piece(unit, home, offset)

    def _new_slot(self) -> torch.Tensor:
        largest = max((unit.size_bytes for unit in self._units), default=0)
        return torch.empty(largest, dtype=torch.uint8, device=self.device)

    def _watch(self, index: int) -> list[torch.utils.hooks.RemovableHandle]:
        first, last = self._units[index].modules[0], self._units[index].modules[-1]
        return [
            first.register_forward_pre_hook(lambda module, args: self._enter(index)),
            last.register_forward_hook(lambda module, args, output: self._leave(index)),
        ]

    def _enter(self, index: int) -> None:
        """The unit is about to run: it is on the device, and the next one is on its way."""
        unit, slot = self._units[index], index % len(self._slots)
        if self._held[slot] != index:
            self._bring(index)
        if self._stream:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        for tensor, offset in zip(unit.tensors, unit.offsets, strict=True):
            tensor.data = view_of(self._slots[slot], offset, tensor)
        following = (index + 1) % len(self._units)
        if following % len(self._slots) != slot and self._held[following % len(self._slots)] != following:
            self._bring(following)

    def _leave(self, index: int) -> None:
        for tensor, home in zip(self._units[index].tensors, self._units[index].resting, strict=True):
            tensor.data = home

    def _bring(self, index: int) -> None:
        """Copy a unit into its slot; on CUDA that goes on beside what is computed."""
        slot = index % len(self._slots)
        self._held[slot] = None
        if self._stream:  # whoever had the slot has been queued before, and ends first
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for piece, offset in self._units[index].pieces:
                self._slots[slot][offset : offset + piece.numel()].copy_(piece, non_blocking=True)
        self._held[slot] = index


def _unit_of(modules: Sequence[torch.nn.Module]) -> _Unit:
    tensors = list({id(tensor): tensor for module in modules for tensor in _tensors_of(module)}.values())
    tensors.sort(key=bytes_of, reverse=True)
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += aligned(bytes_of(tensor))
    return _Unit(tuple(modules), tensors, offsets, end)


def _tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _add_piece(unit: _Unit, home: torch.Tensor, offset: int) -> None:
    """Add a tensor to what is copied, to the last piece where it lies right behind it in the same slab."""
    flat, storage = home.reshape(-1).view(torch.uint8), home.untyped_storage()
    if unit.pieces:
        piece, start = unit.pieces[-1]
        length = offset - start
        begin = piece.storage_offset()
        behind = piece.data_ptr() + length == home.data_ptr()
        if behind and piece.untyped_storage().data_ptr() == storage.data_ptr():
            whole = torch.empty(0, dtype=torch.uint8).set_(storage, begin, (length + flat.numel(),), (1,))
            unit.pieces[-1] = whole, start
            return
    unit.pieces.append((flat, offset))
