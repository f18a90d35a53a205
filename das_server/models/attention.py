# SPDX-License-Identifier: GPL-3.0-or-later
"""Joint attention over text and video rows, through diffusers' attention dispatcher.

The stock CogVideoX processor of diffusers 0.42 calls PyTorch's attention directly, so `set_attention_backend` and
context parallelism silently do nothing with it.  This one computes the same and goes through the dispatcher.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb


class DasAttnProcessor:
    """Attention of one block: queries, keys and values from [text; video], rotary positions on the video rows only.

    `set_attention_backend` sets ``_attention_backend`` and context parallelism sets ``_parallel_config``, both per
    instance.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        text_rows: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from video [B,N,C] (and text [B,L,C]) to both; → (video [B,N,C], text [B,L,C] or None).

        ``image_rotary_emb``: (cos, sin), each [N,D] f32, applied to interleaved channel pairs of each head (D
        channels). ``text_rows`` False leaves the text rows out of the queries: their result would be thrown away.
        """
        text_length = encoder_hidden_states.shape[1]
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)

        # Context parallelism exchanges queries, keys and values as equal shards, so there all rows must be present.
        skip_text = not text_rows and self._parallel_config is None
        query = attn.to_q(hidden_states if skip_text else joint).unflatten(2, (attn.heads, -1))  # [B,S,heads,D]
        key = attn.to_k(joint).unflatten(2, (attn.heads, -1))
        value = attn.to_v(joint).unflatten(2, (attn.heads, -1))

        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        if image_rotary_emb is not None:
            first_video_row = 0 if skip_text else text_length
            query = _rotate_from(query, first_video_row, image_rotary_emb)
            key = _rotate_from(key, text_length, image_rotary_emb)

        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        attended = attended.flatten(2, 3)
        if not text_rows and not skip_text:
            attended = attended[:, text_length:]

        attended = attn.to_out[1](attn.to_out[0](attended))
        if not text_rows:
            return attended, None
        return attended[:, text_length:], attended[:, :text_length]


def _rotate_from(rows: torch.Tensor, first: int, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate rows[:, first:] of [B,S,heads,D] in float32 and leave those before as they are."""
    if first == 0:
        return apply_rotary_emb(rows, rotary, sequence_dim=1)
    rotated = apply_rotary_emb(rows[:, first:], rotary, sequence_dim=1)
    return torch.cat([rows[:, :first], rotated], dim=1)
