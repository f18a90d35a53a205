# SPDX-License-Identifier: GPL-3.0-or-later
"""Step and block caches made for plain CogVideoX: recognised wherever they come from, so that they can be refused.

They skip main blocks while the tracking copies still run and are added again, which gives wrong frames.
"""

from __future__ import annotations

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

from das_blender_addon.errors import ModelError

CACHE_HOOKS = ("cache", "fbc_", "pyramid_attention_broadcast", "layer_skip")
"""What the names of diffusers' hooks contain that leave computation out; offloading and parallelism do not."""


def register_block(block_class: type[torch.nn.Module]) -> None:
    """Make a class of blocks (video, text) → (video, text) known to diffusers' cache functions.

    diffusers 0.42's ``apply_first_block_cache`` and its kin end in "Model class … not registered" for classes that are
    not in its table, and leave the model half hooked.  Registered, they go through, and the model's next forward pass
    says what is wrong with them.
    """
    order = {"return_hidden_states_index": 0, "return_encoder_hidden_states_index": 1}
    TransformerBlockRegistry.register(block_class, TransformerBlockMetadata(**order))


def check_no_cache(model: torch.nn.Module) -> None:
    """Raise `ModelError` where one of diffusers' ``apply_…_cache`` functions has hooked the model or a part of it."""
    for name, module in model.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook in registry.hooks if registry is not None else ():
            if any(word in hook for word in CACHE_HOOKS):
                raise ModelError(
                    f"{name or 'The transformer'} has the hook {hook!r} of a step cache made for plain CogVideoX; with "
                    "the tracking branch it gives wrong frames: render without a cache."
                )


def check_blocks(model: torch.nn.Module) -> None:
    """Raise `ModelError` where a cache has put one block in the place of all main blocks."""
    if len(model.transformer_blocks) != model.config.num_layers:
        raise ModelError(
            f"transformer_blocks holds {len(model.transformer_blocks)} blocks instead of {model.config.num_layers}: a "
            "block cache has replaced them, which skips the tracking branch and gives wrong frames; render without "
            "that cache."
        )
