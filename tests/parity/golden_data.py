# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the golden data is, and how to read it."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).resolve().parent / "golden"
PIPELINE_MODEL = GOLDEN / "pipeline" / "model"


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Every array of an archive (path under ``golden``, without ending) as a tensor."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def arrays(name: str) -> dict[str, np.ndarray]:
    """Every array of an archive."""
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def read_json(name: str):
    """A JSON file (path under ``golden``, without ending)."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def rotary(io: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The rotary tables of a transformer case, None for flavours without."""
    return (io["rope_cos"], io["rope_sin"]) if "rope_cos" in io else None


def max_difference(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """Largest absolute difference, in float64."""
    assert ours.shape == golden.shape
    return (ours.double() - golden.double()).abs().max().item()


def level_difference(ours: np.ndarray, golden: torch.Tensor) -> tuple[int, float, float]:
    """Of 8-bit frames: the largest difference in grey levels, the mean one, and the share of values that differ."""
    assert ours.dtype == np.uint8 and ours.shape == tuple(golden.shape)
    levels = np.abs(ours.astype(int) - golden.numpy().astype(int))
    return int(levels.max()), float(levels.mean()), float((levels > 0).mean())


def relative_rms(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """Root mean square of the difference over that of the golden values."""
    assert ours.shape == golden.shape
    difference = ours.double() - golden.double()
    return (difference.square().mean() / golden.double().square().mean()).sqrt().item()
