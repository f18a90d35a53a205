# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny transformers with random weights, in every published flavour, and inputs that fit them."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from das_server.models.transformer import DasTransformer3DModel

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 32,
    "out_channels": 16,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
    "num_layers": 3,
    "num_tracking_blocks": 2,
    "sample_width": 8,
    "sample_height": 6,
    "sample_frames": 9,
    "max_text_seq_length": 10,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
}


def tiny_transformer(seed: int = 0, **overrides) -> DasTransformer3DModel:
    """A model whose every parameter is random, also those that start at zero."""
    torch.manual_seed(seed)
    model = DasTransformer3DModel(**(TINY | overrides))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_inputs(model: DasTransformer3DModel, *, batch: int = 2, num_latent_frames: int = 3, seed: int = 0) -> dict:
    """Keyword arguments of a forward pass at the model's own size."""
    config, draw = model.config, torch.Generator().manual_seed(seed)
    size = (config.sample_height, config.sample_width)
    tokens = num_latent_frames * (size[0] // 2) * (size[1] // 2)
    latents = (batch, num_latent_frames, config.in_channels, *size)
    angles = torch.rand(tokens, config.attention_head_dim // 2, generator=draw).repeat_interleave(2, dim=1)
    return {
        "hidden_states": torch.randn(latents, generator=draw),
        "encoder_hidden_states": torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, generator=draw),
        "timestep": torch.randint(0, 1000, (batch,), generator=draw),
        "tracking_maps": torch.randn(latents, generator=draw),
        "image_rotary_emb": (angles.cos(), angles.sin()) if config.use_rotary_positional_embeddings else None,
    }


def output_of(model: DasTransformer3DModel, inputs: dict, **options) -> torch.Tensor:
    """The forward pass without gradients."""
    with torch.no_grad():
        return model(**inputs, **options).sample


def edit_tensors(folder: Path, edit) -> None:
    """Rewrite a single-file component: ``edit`` changes the dictionary of tensors."""
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    """Change or (None) remove keys of a component's ``config.json``."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({key: value for key, value in config.items() if value is not None or key not in changes})
    )


def gradient_clip(num_frames: int, width: int, height: int) -> tuple[np.ndarray, Image.Image]:
    """(tracking video u8 [T,H,W,3] of ramps that move one pixel per frame, first frame)."""
    y, x = np.mgrid[:height, :width]
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        video[index, ..., 0] = np.clip((x - index) / width, 0, 1) * 255
        video[index, ..., 1] = y / height * 255
        video[index, ..., 2] = 128
    picture = np.stack([x / width * 255, 255 - y / height * 255, (x * y) % 255], axis=2).astype(np.uint8)
    return video, Image.fromarray(picture)
