# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole checkpoint folders with tiny models."""

from pathlib import Path

import torch

from das_server.models.transformer import DasTransformer3DModel
from tests.parity.golden_data import PIPELINE_MODEL


def model_of_any_size(folder: Path) -> Path:
    """The golden checkpoint with a transformer that takes any size, its weights random; written into ``folder``, which
    is returned.
    """
    folder.mkdir()
    for part in ("vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"):
        (folder / part).symlink_to(PIPELINE_MODEL / part)
    config = DasTransformer3DModel.load_config(PIPELINE_MODEL / "transformer")
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    config["use_learned_positional_embeddings"] = False
    torch.manual_seed(0)
    transformer = DasTransformer3DModel(**{"num_tracking_blocks": 2, **config})
    for linear in (*transformer.combine_linears, transformer.initial_combine_linear):
        torch.nn.init.eye_(linear.weight)
    transformer.save_pretrained(folder / "transformer")
    return folder
