# SPDX-License-Identifier: GPL-3.0-or-later
"""3D convolutions on the CPU, through oneDNN.

For one small clip in float32, PyTorch 2.13 takes a single-threaded im2col path ("slow_conv3d") that is 2 to 10 times
slower than oneDNN at the sizes of the preview model, and it has no switch for that.  oneDNN rounds differently (1e-5
of the values), so this is for the preview model and not for comparisons with published numbers.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d
from torch import nn


class OneDnnConv3d(CogVideoXSafeConv3d):
    """The same convolution, computed by oneDNN where that applies (CPU, float32)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (the base class's name)
        """[B,C,T,H,W] → [B,C',T',H',W']."""
        if input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        return torch.mkldnn_convolution(
            input.contiguous(memory_format=torch.channels_last_3d),
            self.weight,
            self.bias,
            list(self.padding),
            list(self.stride),
            list(self.dilation),
            self.groups,
        )


def use_onednn(module: nn.Module) -> None:
    """Let every 3D convolution inside ``module`` go through oneDNN; harmless on other devices and where there is no
    oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if type(part) is CogVideoXSafeConv3d:
            part.__class__ = OneDnnConv3d
