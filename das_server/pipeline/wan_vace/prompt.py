# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts of Wan: cleaned, encoded by UMT5 without their padding, and padded with zeros."""

from __future__ import annotations

import html
import re

import torch

from das_blender_addon.errors import ModelError

from .. import prompt

MAX_LENGTH = 512
"""Tokens of a prompt, as the model was trained."""


def clean(text: str) -> str:
    """A prompt as the model's own pipeline has it: broken letters mended, HTML unescaped, runs of blanks made one.

    Raises `ModelError` where the library for that is missing.
    """
    try:
        import ftfy
    except ImportError as error:
        raise ModelError("Wan's prompts need the library ftfy, which is missing: pip install ftfy.") from error
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


class WanPromptEncoder(prompt.PromptEncoder):
    """The text side of a Wan checkpoint."""

    tokenizers = ("T5TokenizerFast", "T5Tokenizer", "ByT5Tokenizer")
    encoder_class = "UMT5EncoderModel"

    def embeds(self, text: str, device: torch.device) -> torch.Tensor:
        """Text → prompt embeds [1, max_length, D] on ``device``, zero behind its last token."""
        tokens = self.tokenizer(
            [clean(text)],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask.to(device)
        embeds = self.model(tokens.input_ids.to(device), mask).last_hidden_state
        length = int(mask.gt(0).sum())
        return torch.cat([embeds[:, :length], embeds.new_zeros(1, self.max_length - length, embeds.shape[2])], dim=1)
