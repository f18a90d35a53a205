# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole Wan VACE checkpoint in diffusers' layout, tiny and random."""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACETransformer3DModel
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from tests.bench.denoise_checkpoint import shapes_of, write_holes

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "vace_layers": [0, 2],
    "vace_in_channels": 2 * 4 + 64,
}
VAE = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}
STATISTICS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0]}
TEXT_ENCODER = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SCHEDULER = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
}
"""As published, in all that is not diffusers' default."""
FULL = {
    "wan-vace-1.3b": {
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "ffn_dim": 8960,
        "num_layers": 30,
        "vace_layers": list(range(0, 30, 2)),
    },
    "wan-vace-14b": {
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "ffn_dim": 13824,
        "num_layers": 40,
        "vace_layers": list(range(0, 40, 5)),
    },
}
"""The published transformers' configurations, in all that is not diffusers' default."""
FULL_TEXT_ENCODER = TEXT_ENCODER | {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240}
FULL_TEXT_ENCODER |= {"num_layers": 24, "num_heads": 64}


def write_wan_checkpoint(folder: Path, **transformer) -> Path:
    """A checkpoint with random weights from a fixed seed, and other settings of its transformer; → ``folder``."""
    torch.manual_seed(0)
    model = WanVACETransformer3DModel(**(TRANSFORMER | transformer))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "transformer")
    vae = AutoencoderKLWan(**VAE, **STATISTICS)
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vae.save_pretrained(folder / "vae")
    UMT5EncoderModel(UMT5Config(**TEXT_ENCODER)).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanVACEPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "ByT5Tokenizer"],
        "transformer": ["diffusers", "WanVACETransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_full_wan_headers(name: str, folder: Path, dtype: torch.dtype) -> Path:
    """The true configurations and tensor shapes of a published model, without weights (`write_holes`); → ``folder``."""
    with torch.device("meta"):
        transformer, vae = WanVACETransformer3DModel(**FULL[name]), AutoencoderKLWan()
        text_encoder = UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **FULL_TEXT_ENCODER))
    for model, part, kept in ((transformer, "transformer", dtype), (vae, "vae", torch.float32)):
        model.save_config(folder / part)
        write_holes(shapes_of(model), folder / part / "diffusion_pytorch_model.safetensors", kept)
    text_encoder.config.save_pretrained(folder / "text_encoder")
    write_holes(shapes_of(text_encoder), folder / "text_encoder" / "model.safetensors", torch.bfloat16)
    return folder


if __name__ == "__main__":
    write_wan_checkpoint(Path(sys.argv[1]))
