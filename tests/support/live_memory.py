# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory tensors take at their most while something is computed, counted without computing it: of true shapes
on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the memory of what comes into being inside, as long as anybody has it.  ``known``: not counted."""

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._seen:
                storage, size_bytes = tensor.untyped_storage(), tensor.untyped_storage().nbytes()
                self._seen.add(storage)
                self.now += size_bytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._let_go, size_bytes)
        return result

    def _let_go(self, size_bytes: int) -> None:
        self.now -= size_bytes
