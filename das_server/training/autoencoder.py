# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's small CogVideoX autoencoder: how it starts, and what one training step costs it.

The stock initialisation learns very slowly at this size. Here the network starts as a nearly linear filter bank:
residual branches add nothing, the spatial norms are plain group norms, and the last norm + SiLU before each output
convolution is made linear by feeding it pairs of opposite channels, because silu(x) - silu(-x) = x.
"""

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXResnetBlock3D, CogVideoXSpatialNorm3D
from torch import nn

TRUNK_GAIN = 1.7
"""Keeps the variance of a random convolution's output near that of its input."""
PAIR_CONSTANT = 4.0
"""The constant channel pair that fixes each norm group's deviation, so that the norm is a constant factor."""
KL_WEIGHT = 3e-5


def build_autoencoder(block_out_channels: tuple[int, ...], norm_num_groups: int, *, latent_channels: int = 16,
                      sample_height: int = 128, sample_width: int = 192) -> AutoencoderKLCogVideoX:
    """Build one with 4x temporal and 2^(blocks-1) spatial compression, initialised nearly linear. float32."""
    blocks = len(block_out_channels)
    autoencoder = AutoencoderKLCogVideoX(
        block_out_channels=tuple(block_out_channels), down_block_types=("CogVideoXDownBlock3D",) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks, latent_channels=latent_channels, layers_per_block=1,
        norm_num_groups=norm_num_groups, temporal_compression_ratio=4, sample_height=sample_height,
        sample_width=sample_width, scaling_factor=1.0)
    with torch.no_grad():
        for part in autoencoder.modules():
            if isinstance(part, CogVideoXResnetBlock3D):
                nn.init.zeros_(part.conv2.conv.weight)
                nn.init.zeros_(part.conv2.conv.bias)
            if isinstance(part, CogVideoXSpatialNorm3D):
                nn.init.zeros_(part.conv_y.conv.weight)
                nn.init.ones_(part.conv_y.conv.bias)
                part.conv_b.conv.weight.mul_(0.1)
                nn.init.zeros_(part.conv_b.conv.bias)
        _keep_variance(autoencoder)
        _make_heads_linear(autoencoder, norm_num_groups)
        head = autoencoder.encoder.conv_out.conv
        head.weight[latent_channels:] *= 0.1
        head.bias[latent_channels:] = -7.0  # a small posterior variance from the start
    return autoencoder


def _convolution(layer: nn.Module) -> nn.Module:
    return getattr(layer, "conv", layer)


def _keep_variance(autoencoder):
    for half in (autoencoder.encoder, autoencoder.decoder):
        half.conv_in.conv.weight.mul_(TRUNK_GAIN)
        for block in getattr(half, "down_blocks", None) or half.up_blocks:
            for resnet in block.resnets:
                if getattr(resnet, "conv_shortcut", None) is not None:
                    _convolution(resnet.conv_shortcut).weight.mul_(TRUNK_GAIN)
            for sampler in [*(getattr(block, "downsamplers", None) or []), *(getattr(block, "upsamplers", None) or [])]:
                sampler.conv.weight.mul_(TRUNK_GAIN)


def _make_heads_linear(autoencoder, groups):
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    pairs, deviation = _opposite_pairs(_convolution(encoder.down_blocks[-1].resnets[0].conv_shortcut), groups)
    head = encoder.conv_out.conv
    _read_pairs(head, pairs, deviation, head.weight.shape[0] // 2)
    resnet = next(r for r in decoder.up_blocks[-1].resnets if getattr(r, "conv_shortcut", None) is not None)
    pairs, deviation = _opposite_pairs(_convolution(resnet.conv_shortcut), groups)
    _read_pairs(decoder.conv_out.conv, pairs, deviation, 3)


def _opposite_pairs(shortcut, groups):
    """Make each norm group of a 1x1 convolution's outputs {a, -a, …, K, -K}; return the pairs and the deviation."""
    size = shortcut.weight.shape[0] // groups
    pairs = []
    for group in range(groups):
        start = group * size
        for pair in range((size - 2) // 2):
            first = start + 2 * pair
            shortcut.weight[first + 1] = -shortcut.weight[first]
            shortcut.bias[first] = shortcut.bias[first + 1] = 0
            pairs.append((first, first + 1))
        shortcut.weight[start + size - 2:start + size] = 0
        shortcut.bias[start + size - 2], shortcut.bias[start + size - 1] = PAIR_CONSTANT, -PAIR_CONSTANT
    return pairs, (2 * PAIR_CONSTANT**2 / size) ** 0.5


def _read_pairs(head, pairs, deviation, num_outputs):
    head.weight.mul_(0.02)
    head.bias.zero_()
    last = head.weight.shape[2] - 1
    for output in range(num_outputs):
        positive, negative = pairs[output % len(pairs)]
        head.weight[output, positive, last, 1, 1] += deviation
        head.weight[output, negative, last, 1, 1] -= deviation


@torch.no_grad()
def centre_latents(autoencoder: AutoencoderKLCogVideoX, mean: torch.Tensor) -> None:
    """Shift the latents by `-mean` `[C]`, in place: the encoder subtracts it, everything that reads latents adds it.

    Exact but for the zero padding at the picture's border, which the decoder's first convolution now sees as the mean.
    """
    autoencoder.encoder.conv_out.conv.bias[:len(mean)] -= mean
    first = autoencoder.decoder.conv_in.conv
    first.bias += first.weight.sum((2, 3, 4)) @ mean
    for part in autoencoder.decoder.modules():
        if isinstance(part, CogVideoXSpatialNorm3D):
            for layer in (part.conv_y.conv, part.conv_b.conv):
                layer.bias += layer.weight[:, :, 0, 0, 0] @ mean


def autoencoder_loss(autoencoder: nn.Module, video: torch.Tensor, generator: torch.Generator):
    """`video` `[B, 3, T, H, W]` in [-1, 1]. Returns the loss (L1 + L2 + small KL) and a dict of plain numbers."""
    posterior = autoencoder.encode(video).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(video)
    output = autoencoder.decode(posterior.mean + posterior.std * noise).sample
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    error = output - video
    square = error.square().mean()
    loss = error.abs().mean() + square + KL_WEIGHT * divergence
    psnr = -10 * torch.log10(square.detach() / 4 + 1e-10)
    return loss, {"psnr": psnr.item(), "kl": divergence.item()}
