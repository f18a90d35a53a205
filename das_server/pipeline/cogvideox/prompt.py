# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts of CogVideoX: every token of a padded text is attended to."""

from __future__ import annotations

import torch

from .. import prompt


class PromptEncoder(prompt.PromptEncoder):
    """The text side of a CogVideoX checkpoint."""

    tokenizers = ("T5Tokenizer", "T5TokenizerFast", "ByT5Tokenizer")
    encoder_class = "T5EncoderModel"

    def token_ids(self, text: str) -> torch.Tensor:
        """Text → int64 [1, max_length], cut or padded; the padding is attended to like any token (as published)."""
        tokens = self.tokenizer(
            [text],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        return tokens.input_ids

    def embeds(self, text: str, device: torch.device) -> torch.Tensor:
        """Text → prompt embeds [1, max_length, D] on ``device``, by the loaded text encoder."""
        return self.model(self.token_ids(text).to(device))[0]
