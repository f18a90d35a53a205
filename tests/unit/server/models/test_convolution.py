# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview model's convolutions: what they give is what diffusers' own give, with less kept."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from diffusers.models.downsampling import CogVideoXDownsample3D

from das_server.models.convolution import LeanDownsample3D, LeanSpatialNorm3D, use_onednn

ATOL = 1e-5  # float32; sums in another order


@pytest.mark.parametrize(("latents", "frames"), [(1, 1), (2, 2), (3, 3), (3, 5), (3, 9), (2, 8)])
def test_norm_is_the_published_one_and_keeps_nothing(latents, frames):
    torch.manual_seed(frames)
    norm = CogVideoXSpatialNorm3D(f_channels=8, zq_channels=6, groups=4)
    hidden, zq = torch.randn(2, 8, frames, 12, 20), torch.randn(2, 6, latents, 3, 5)
    with torch.no_grad():
        expected, _ = norm(hidden, zq)
        before = hidden.clone()
        use_onednn(norm)
        made, kept = norm(hidden, zq)
    assert type(norm) is LeanSpatialNorm3D and kept == {} and torch.equal(hidden, before)
    torch.testing.assert_close(made, expected, atol=ATOL, rtol=0)
    with_gradients, _ = norm(hidden, zq.requires_grad_())
    torch.testing.assert_close(with_gradients, expected, atol=ATOL, rtol=0)
    with_gradients.sum().backward()
    assert zq.grad is not None and norm.conv_b.conv.weight.grad is not None


def small_vae():
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("compress_time", [False, True])
def test_halving_is_the_published_one(compress_time, frames):
    torch.manual_seed(frames)
    halving = CogVideoXDownsample3D(4, 6, compress_time=compress_time)
    hidden = torch.randn(2, 4, frames, 6, 10)
    with torch.no_grad():
        before = hidden.clone()
        expected = halving(hidden)
        use_onednn(halving)
        made = halving(hidden)
    assert type(halving) is LeanDownsample3D and torch.equal(hidden, before)
    torch.testing.assert_close(made, expected, atol=ATOL, rtol=0)
    with_gradients = halving(hidden.requires_grad_())
    torch.testing.assert_close(with_gradients, expected, atol=ATOL, rtol=0)
    with_gradients.square().sum().backward()
    assert hidden.grad is not None and halving.conv.weight.grad is not None


@pytest.mark.parametrize(("side", "frames"), [(16, 1), (16, 9), (24, 17)])
@torch.no_grad()
def test_clip_is_encoded_as_by_the_published_encoder(side, frames):
    torch.manual_seed(4)
    vae = small_vae()
    clip = torch.randn(1, 3, frames, side, side + 8)
    expected = vae.encode(clip).latent_dist.mode()
    use_onednn(vae)
    torch.testing.assert_close(vae.encode(clip).latent_dist.mode(), expected, atol=10 * ATOL, rtol=0)


@pytest.mark.parametrize("latents", [1, 2, 5])
@torch.no_grad()
def test_clip_is_decoded_as_by_the_published_decoder(latents):
    torch.manual_seed(3)
    vae = small_vae()
    clip = torch.randn(1, vae.config.latent_channels, latents, 4, 6)
    expected = vae.decode(clip).sample
    use_onednn(vae)
    torch.testing.assert_close(vae.decode(clip).sample, expected, atol=10 * ATOL, rtol=0)
