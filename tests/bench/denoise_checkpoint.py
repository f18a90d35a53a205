# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint folder of any size that takes no disk: true configurations and headers, weights that are holes.

The holes read as zeros, so the product loads, plans and places it like any other; speed is not measured with zeros.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler

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
NUM_BUCKETS = 32
TEXT_ENCODER = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "relative_attention_num_buckets": NUM_BUCKETS,
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
    for model, name in ((transformer, "transformer"), (vae, "vae")):
        model.save_config(folder / name)
        write_holes(shapes_of(model), folder / name / "diffusion_pytorch_model.safetensors", dtype)
    (folder / "text_encoder").mkdir()
    config = json.dumps(TEXT_ENCODER | size.text_encoder)
    (folder / "text_encoder" / "config.json").write_text(config, encoding="utf-8")
    write_holes(text_encoder_shapes(**size.text_encoder), folder / "text_encoder" / "model.safetensors", dtype)
    CogVideoXDPMScheduler(**SCHEDULER).save_config(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    about = json.dumps({"tokenizer_class": "ByT5Tokenizer"})
    (folder / "tokenizer" / "tokenizer_config.json").write_text(about, encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(INDEX), encoding="utf-8")
    return folder


def text_encoder_shapes(
    *, d_model: int, d_ff: int, d_kv: int, num_heads: int, num_layers: int, vocab_size: int
) -> dict[str, tuple[int, ...]]:
    """The tensors of a T5 encoder by the names of its checkpoints, for machines without transformers."""
    inner = d_kv * num_heads
    shapes = {"shared.weight": (vocab_size, d_model), "encoder.final_layer_norm.weight": (d_model,)}
    for index in range(num_layers):
        attention, forward = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (inner, d_model) for name in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (d_model, inner)
        shapes |= {f"{forward}.DenseReluDense.{name}.weight": (d_ff, d_model) for name in ("wi_0", "wi_1")}
        shapes[f"{forward}.DenseReluDense.wo.weight"] = (d_model, d_ff)
        shapes |= {f"{part}.layer_norm.weight": (d_model,) for part in (attention, forward)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (NUM_BUCKETS, num_heads)
    return shapes


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The tensors of a model's checkpoint."""
    second_name = "encoder.embed_tokens.weight"  # T5's for "shared.weight"
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != second_name}


def write_holes(shapes: Mapping[str, tuple[int, ...]], path: Path, dtype: torch.dtype) -> None:
    """A safetensors file of tensors: a header and, where the file system can, no data."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": STORED_AS[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
