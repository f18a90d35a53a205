# SPDX-License-Identifier: GPL-3.0-or-later
"""A transformer with random weights, its inputs, and the straightforward forward that ours is compared with."""

from __future__ import annotations

import torch
from denoise_checkpoint import TRANSFORMER, Size
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.latents import rotary_positions


def build_transformer(size: Size, device: torch.device, dtype: torch.dtype) -> DasTransformer3DModel:
    """Random weights directly on the device."""
    with torch.device("meta"):
        model = DasTransformer3DModel(**(TRANSFORMER | size.transformer)).to(dtype)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    randomise(model)
    return model


def randomise(module: torch.nn.Module) -> None:
    """Random weights under which every layer has its say: products keep the size of what comes in, norms are near 1."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.ndim >= 2:
            tensor.normal_(std=(tensor.shape[0] / tensor.numel()) ** 0.5)
        else:
            tensor.normal_(mean=float(name.endswith("weight")), std=0.1)


def make_inputs(size: Size, model: DasTransformer3DModel) -> dict:
    """Both guidance rows, one row of tracking."""
    config, device = model.config, model.device
    like = {"device": device, "dtype": model.dtype}
    shape = (2, (size.num_frames - 1) // 4 + 1, 32, size.height // 8, size.width // 8)
    return {
        "hidden_states": torch.randn(shape, **like),
        "encoder_hidden_states": torch.randn(2, config.max_text_seq_length, config.text_embed_dim, **like),
        "timestep": torch.tensor([999, 999], device=device),
        "tracking_maps": torch.randn((1, *shape[1:]), **like),
        "image_rotary_emb": rotary_positions(
            head_dim=config.attention_head_dim,
            grid_size=(shape[3] // 2, shape[4] // 2),
            base_size=(config.sample_height // 2, config.sample_width // 2),
            num_latent_frames=shape[1],
            device=device,
        ),
    }


def straightforward(model: DasTransformer3DModel, inputs: dict) -> torch.Tensor:
    """The computation without any short cut: stock blocks and attention, every row, everything anew."""
    latents, text, timestep = inputs["hidden_states"], inputs["encoder_hidden_states"], inputs["timestep"]
    temb = model.time_embedding(model.time_proj(timestep).to(latents.dtype))
    length = text.shape[1]
    tracking_maps = inputs["tracking_maps"].expand_as(latents)
    joint, tracking = model.patch_embed(text, latents), model.patch_embed(text, tracking_maps)
    text, video = joint[:, :length], joint[:, length:]
    control = model.initial_combine_linear(video + tracking[:, length:])
    stock, rotary = CogVideoXAttnProcessor2_0(), inputs["image_rotary_emb"]
    blocks = (*model.transformer_blocks, *model.transformer_blocks_copy)
    ours = [block.attn1.processor for block in blocks]
    for block in blocks:
        block.attn1.processor = stock
    try:
        for index, block in enumerate(model.transformer_blocks):
            video, text = CogVideoXBlock.forward(block, video, text, temb, rotary)
            if index < len(model.transformer_blocks_copy):
                copy = model.transformer_blocks_copy[index]
                control, _ = CogVideoXBlock.forward(copy, control, text, temb, rotary)
                control = model.combine_linears[index](control)
                video = video + control
    finally:
        for block, processor in zip(blocks, ours, strict=True):
            block.attn1.processor = processor
    return model.proj_out(model.norm_out(model.norm_final(video), temb=temb))
