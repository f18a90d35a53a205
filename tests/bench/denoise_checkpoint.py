# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint folder of any size that takes no disk: true configurations and headers, weights that are holes.

The holes read as zeros, so the product loads, plans and places it like any other; speed is not measured with zeros.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from das_server.models.transformer import DasTransformer3DModel

STORED_AS = {torch.bfloat16: "BF16", torch.float32: "F32"}


@dataclass(frozen=True)
class Size:
    """One model and clip: configuration overrides, frames, pixels, and how often a step is timed."""

    name: str
    transformer: dict
    vae: dict
    text_encoder: dict
    num_frames: int
    width: int
    height: int
    repeats: int


FULL = Size(
    "full",
    {"num_attention_heads": 48, "num_layers": 42, "num_tracking_blocks": 18},
    {"block_out_channels": (128, 256, 256, 512), "layers_per_block": 3, "sample_height": 480, "sample_width": 720},
    {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128},
    49, 720, 480, 3,
)  # fmt: skip
TINY = Size(
    "tiny",
    {
        "num_attention_heads": 4, "num_layers": 4, "num_tracking_blocks": 2, "sample_width": 20, "sample_height": 12,
        "sample_frames": 17, "text_embed_dim": 64, "max_text_seq_length": 32, "time_embed_dim": 64,
    },
    {
        "block_out_channels": (8, 8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_height": 96,
        "sample_width": 160,  # halves of it are tiles whose edges meet at whole latents
    },
    {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2, "vocab_size": 384},
    17, 160, 96, 5,
)  # fmt: skip
TRANSFORMER = {
    "attention_head_dim": 64,
    "in_channels": 32,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
}
VAE = {
    "latent_channels": 16,
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
}
INDEX = {
    "_class_name": "CogVideoXImageToVideoPipelineTracking",
    "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "ByT5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModelTracking"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}


def write_checkpoint(size: Size, folder: Path, dtype: torch.dtype) -> Path:
    """Everything that the product reads of a checkpoint, in ``dtype``."""
    with torch.device("meta"):
        transformer = DasTransformer3DModel(**(TRANSFORMER | size.transformer))
        vae = AutoencoderKLCogVideoX(**(VAE | size.vae))
        config = T5Config(feed_forward_proj="gated-gelu", is_encoder_decoder=False, **size.text_encoder)
        text_encoder = T5EncoderModel(config)
    for model, name in ((transformer, "transformer"), (vae, "vae")):
        model.save_config(folder / name)
        write_holes(model, folder / name / "diffusion_pytorch_model.safetensors", dtype)
    config.architectures = ["T5EncoderModel"]
    config.save_pretrained(folder / "text_encoder")
    write_holes(text_encoder, folder / "text_encoder" / "model.safetensors", dtype)
    CogVideoXDPMScheduler(**SCHEDULER).save_config(folder / "scheduler")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(INDEX), encoding="utf-8")
    return folder


def write_holes(model: torch.nn.Module, path: Path, dtype: torch.dtype) -> None:
    """A safetensors file of the model's tensors: a header and, where the file system can, no data."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in model.state_dict().items():
        if name == "encoder.embed_tokens.weight":  # T5's second name for "shared.weight"
            continue
        begin, end = end, end + tensor.numel() * dtype.itemsize
        header[name] = {"dtype": STORED_AS[dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
