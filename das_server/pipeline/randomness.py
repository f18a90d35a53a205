# SPDX-License-Identifier: GPL-3.0-or-later
"""One seed decides everything: the random streams of a clip, and kernels that give the same bits every time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

DEFAULT_SEED = 42
"""Seed used when no generator is given."""


def default_stream() -> torch.Generator:
    """The generator of a clip for which none is given."""
    return torch.Generator().manual_seed(DEFAULT_SEED)


def tracking_stream(generator: torch.Generator) -> torch.Generator:
    """The generator of the tracking video's posterior, decided by the seed of ``generator`` alone and consuming none
    of it."""
    digest = hashlib.sha256(b"tracking video" + str(generator.initial_seed()).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextlib.contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Inside, cuDNN takes only algorithms that give the same bits every time, and does not try others for speed."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
