# SPDX-License-Identifier: GPL-3.0-or-later
"""3D convolutions on the CPU, through oneDNN, and no more of them than are needed.

For one small clip in float32, PyTorch 2.13 takes a single-threaded im2col path ("slow_conv3d") that is 2 to 10 times
slower than oneDNN at the sizes of the preview model, and it has no switch for that.  oneDNN rounds differently (1e-5
of the values), so this is for the preview model and not for comparisons with published numbers.

The decoder's norms scale and shift by 1×1×1 convolutions of the latents, which diffusers enlarges before; and it keeps
the enlarged latents of each for the next frames, which need none.  Enlarging afterwards is the same at up to a 64th of
the work: a clip of 49 frames of 256×144 took 18.5 s of processor time and 1.58 GB, and takes 14.8 s and 0.91 GB.

The encoder's halvings bring time to the last place in memory and back to average it; averaging it where it lies takes
1.87 instead of 2.20 s to encode two clips of 49 frames of 192×128.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d, CogVideoXSpatialNorm3D
from diffusers.models.downsampling import CogVideoXDownsample3D
from torch import nn
from torch.nn.functional import interpolate, pad


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


class LeanSpatialNorm3D(CogVideoXSpatialNorm3D):
    """The same norm: the latents' convolutions are enlarged, not the latents convolved at the frames' size."""

    def forward(
        self, f: torch.Tensor, zq: torch.Tensor, conv_cache: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """``f`` [B,C,T,H,W], the latents ``zq`` [B,Z,t,h,w] → [B,C,T,H,W], and nothing to keep."""
        scale, shift = (_enlarged(part.conv(zq), f.shape[-3:]) for part in (self.conv_y, self.conv_b))
        normed = self.norm_layer(f)
        if torch.is_grad_enabled():
            return normed * scale + shift, {}
        return normed.mul_(scale).add_(shift), {}


class LeanDownsample3D(CogVideoXDownsample3D):
    """The same halving; frames are averaged where they lie."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,T,H,W] → [B,C',T',H/2,W/2]; where time is halved, too, of an odd number of frames the first one stays
        alone."""
        num_frames = x.shape[2]
        if self.compress_time and num_frames > 1:
            alone = num_frames % 2
            halved = (x[:, :, alone::2] + x[:, :, alone + 1 :: 2]).mul_(0.5)
            x = torch.cat([x[:, :, :1], halved], dim=2) if alone else halved
        frames = pad(x, (0, 1, 0, 1)).transpose(1, 2)
        return self.conv(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


def _enlarged(values: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """``values`` [B,C,t,h,w] repeated to ``size`` (T, H, W); of an odd number of frames the first one is the first."""
    if size[0] > 1 and size[0] % 2 == 1:
        first = interpolate(values[:, :, :1], size=(1, *size[1:]))
        return torch.cat([first, interpolate(values[:, :, 1:], size=(size[0] - 1, *size[1:]))], dim=2)
    return interpolate(values, size=tuple(size))


def use_onednn(module: nn.Module) -> None:
    """Let every 3D convolution inside ``module`` go through oneDNN, harmless on other devices and where there is no
    oneDNN, and the decoder's norms and the encoder's halvings be lean."""
    for part in module.modules():
        if type(part) is CogVideoXSpatialNorm3D:
            part.__class__ = LeanSpatialNorm3D
        elif type(part) is CogVideoXDownsample3D:
            part.__class__ = LeanDownsample3D
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if type(part) is CogVideoXSafeConv3d:
            part.__class__ = OneDnnConv3d
