# SPDX-License-Identifier: GPL-3.0-or-later
"""One transformer block: the published CogVideoX block, able to leave out what a caller would throw away."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

from .attention import DasAttnProcessor

Modulation = tuple[torch.Tensor, torch.Tensor]
"""Shift, scale and gate of a block's two stages at one timestep, each [B or 1, 6·C]."""


class DasBlock(CogVideoXBlock):
    """`CogVideoXBlock` with the same parameters and arithmetic, and two exact short cuts.

    ``modulation`` replaces the two projections of the time embedding by values computed earlier; ``text_rows`` False
    skips every row of text after the attention's keys and values, for blocks whose text output nobody reads.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.attn1.set_processor(DasAttnProcessor())

    def project_time(self, temb: torch.Tensor) -> Modulation:
        """Time embedding [B,E] → the block's modulation."""
        return self.norm1.linear(self.norm1.silu(temb)), self.norm2.linear(self.norm2.silu(temb))

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor | None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        modulation: Modulation | None = None,
        text_rows: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Video [B,N,C], text [B,L,C], time embedding [B or 1, E] → (video, text); without ``text_rows`` text is as it
        came."""
        first, second = self.project_time(temb) if modulation is None else modulation

        # 1. Joint attention between adaptive norms; chunks: shift, scale, gate for video, then the same for text.
        shift, scale, gate, text_shift, text_scale, text_gate = first[:, None, :].chunk(6, dim=2)
        attended, text_attended = self.attn1(
            hidden_states=self.norm1.norm(hidden_states) * (1 + scale) + shift,
            encoder_hidden_states=self.norm1.norm(encoder_hidden_states) * (1 + text_scale) + text_shift,
            image_rotary_emb=image_rotary_emb,
            text_rows=text_rows,
            **(attention_kwargs or {}),
        )
        hidden_states = hidden_states + gate * attended

        # 2. Feed-forward, over [text; video] as published, or over the video rows alone.
        shift, scale, gate, text_shift, text_scale, text_ff_gate = second[:, None, :].chunk(6, dim=2)
        video_in = self.norm2.norm(hidden_states) * (1 + scale) + shift
        if not text_rows:
            return hidden_states + gate * self.ff(video_in), encoder_hidden_states

        encoder_hidden_states = encoder_hidden_states + text_gate * text_attended
        text_in = self.norm2.norm(encoder_hidden_states) * (1 + text_scale) + text_shift
        text_out, video_out = self.ff(torch.cat([text_in, video_in], dim=1)).split(
            [text_in.shape[1], video_in.shape[1]], dim=1
        )
        return hidden_states + gate * video_out, encoder_hidden_states + text_ff_gate * text_out
