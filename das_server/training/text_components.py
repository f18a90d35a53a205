# SPDX-License-Identifier: GPL-3.0-or-later
"""The text side of a small checkpoint: a byte-level tokenizer, an untrained T5 encoder of few kilobytes, the index.

The preview ignores its prompt; these exist so that its folder is read by the same code as the full model's.
"""

import json
from pathlib import Path

import torch

from das_server.models.lean import of_transformers
from das_server.pipeline.cogvideox.carry import CARRIES_FIRST_FRAME
from das_server.pipeline.cogvideox.holes import PAINTS_HOLES

TEXT_SEED = 0


def write_text_components(folder: Path, text_embed_dim: int) -> None:
    """Write `tokenizer/`, `text_encoder/` (seeded random weights, float16) and `model_index.json` into `folder`."""
    tokenizer = of_transformers("ByT5Tokenizer")()
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(TEXT_SEED)
    config = of_transformers("T5Config")(
        vocab_size=len(tokenizer), d_model=text_embed_dim, d_kv=8, d_ff=2 * text_embed_dim, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    of_transformers("T5EncoderModel")(config).half().save_pretrained(folder / "text_encoder")
    index = {"_class_name": "CogVideoXImageToVideoPipelineTracking", "_diffusers_version": "0.42.1",
             "scheduler": ["diffusers", "CogVideoXDPMScheduler"], "text_encoder": ["transformers", "T5EncoderModel"],
             "tokenizer": ["transformers", "ByT5Tokenizer"],
             "transformer": ["cogvideox_tracking", "CogVideoXTransformer3DModelTracking"],
             "vae": ["diffusers", "AutoencoderKLCogVideoX"], CARRIES_FIRST_FRAME: True, PAINTS_HOLES: True}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
