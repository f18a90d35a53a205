# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiles of the VAE: on whole latents at every size, and each where it belongs."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from das_server.models.vae import aligned_tile, load_vae

OVERLAPS = (1 / 6, 1 / 5)
"""diffusers' shares of a tile's height and width that two tiles have in common."""
ATOL = 1e-5  # float32; the same convolutions, once alone


@pytest.fixture
def make_vae(tmp_path):
    """A function (width, height) → a tiny VAE with eight pixels per latent that is made for that size, loaded."""

    def make(width: int, height: int) -> AutoencoderKLCogVideoX:
        torch.manual_seed(3)
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            sample_width=width,
            sample_height=height,
        )
        folder = tmp_path / f"{width}x{height}"
        vae.save_pretrained(folder)
        return load_vae(folder, torch.float32)

    return make


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("stride", [4, 8])
def test_tile_of_any_side_lies_on_whole_latents(stride, overlap):
    for half in range(4, 700, 2):
        side, share = aligned_tile(half, overlap, stride)
        latents = side // stride
        step, shared = int(latents * (1 - share)), int(latents * share)
        assert side % stride == 0 and side <= max(half, 2 * stride), half
        assert 0 < shared < latents and step == latents - shared, half
        assert int(side * (1 - share)) == step * stride and side - int(side * share) == step * stride, half


def test_tiles_of_the_published_size_are_left_alone(make_vae):
    vae = make_vae(720, 480)
    assert not vae.use_tiling
    vae.enable_tiling()
    assert (vae.tile_sample_min_width, vae.tile_sample_min_height) == (360, 240)
    assert (vae.tile_latent_min_width, vae.tile_latent_min_height) == (45, 30)
    assert (vae.tile_overlap_factor_width, vae.tile_overlap_factor_height) == (1 / 5, 1 / 6)


@pytest.mark.parametrize(("width", "height"), [(144, 96), (112, 112), (208, 144), (64, 64)])
@torch.no_grad()
def test_tiled_clip_has_the_size_of_the_whole(make_vae, width, height):
    vae = make_vae(width, height)
    vae.enable_tiling()
    latents = vae.encode(torch.rand(1, 3, 9, height, width)).latent_dist.mean
    assert latents.shape == (1, 16, 3, height // 8, width // 8)
    assert vae.decode(latents).sample.shape == (1, 3, 9, height, width)


@torch.no_grad()
def test_tiles_lie_where_they_belong(make_vae):
    """What no other tile shares is what the tile alone gives, at its own place."""
    vae = make_vae(144, 96)
    vae.enable_tiling()
    pixels = torch.rand(1, 3, 9, 96, 144)
    latents = vae.encode(pixels).latent_dist.mean
    rows, columns = vae.tile_sample_min_height, vae.tile_sample_min_width
    step = int(columns * (1 - vae.tile_overlap_factor_width))
    kept = (rows - int(rows * vae.tile_overlap_factor_height)) // 8
    shared = int(columns // 8 * vae.tile_overlap_factor_width)
    alone = vae.encode(pixels[..., :rows, step : step + columns]).latent_dist.mean
    own = slice(step // 8 + shared, 2 * step // 8)
    torch.testing.assert_close(latents[..., :kept, own], alone[..., :kept, shared : step // 8], atol=ATOL, rtol=0)

    clip = vae.decode(latents).sample
    alone = vae.decode(latents[..., : rows // 8, step // 8 : (step + columns) // 8]).sample
    own = slice(step + 8 * shared, 2 * step)
    torch.testing.assert_close(clip[..., : 8 * kept, own], alone[..., : 8 * kept, 8 * shared : step], atol=ATOL, rtol=0)
