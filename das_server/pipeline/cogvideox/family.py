# SPDX-License-Identifier: GPL-3.0-or-later
"""What the CogVideoX family brings, as `base.Family`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .needs import NEEDS
from .pipeline import DasPipeline

measure_needs = NEEDS.measure


def load(folder: Path, *, embedded: bool, **settings: Any) -> DasPipeline:
    """Load a checkpoint folder.  Raises `ModelError`, `OutOfMemory`."""
    return DasPipeline.from_pretrained(folder, fast_cpu_convolutions=embedded, **settings)
