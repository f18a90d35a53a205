# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Wan VACE family brings, as `base.Family`."""

from __future__ import annotations

from .needs import NEEDS
from .pipeline import VacePipeline

measure_needs = NEEDS.measure
load = VacePipeline.from_pretrained
