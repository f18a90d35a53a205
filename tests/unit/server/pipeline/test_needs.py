# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan's formulas for activations, beside what the networks take at the published shapes: counted by tensors that
have a shape and no values, so nothing is computed."""

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from torch._subclasses.fake_tensor import FakeTensorMode

from das_server.models.block_cache import BlockCache
from das_server.models.transformer import DasTransformer3DModel, RunCache
from das_server.pipeline.cogvideox import needs as cogvideox
from das_server.pipeline.needs import Clip
from das_server.pipeline.wan_vace import needs as wan
from tests.bench.denoise_checkpoint import FULL, TRANSFORMER, VAE
from tests.support.live_memory import LiveBytes

SLACK = 1.35
"""By how much a formula may lie above what is taken; never below."""


def of_dtype(build, dtype):
    """A model that is made in ``dtype``: tensors without values cannot be converted in place."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build().eval()
    finally:
        torch.set_default_dtype(before)


def taken(model, inputs, work):
    live = LiveBytes([*model.parameters(), *model.buffers(), *inputs])
    with live, torch.no_grad():
        result = work(*inputs)
    assert result is not None
    return live.peak


@pytest.mark.parametrize("size", [None, (720, 480)])
@pytest.mark.parametrize(("family", "tile"), [(cogvideox, (360, 240)), (wan, (256, 256))])
def test_vae_takes_what_is_planned_in_each_stage(family, tile, size):
    """Of a whole clip, and of one tile, which is what is worked on at a time in tiles."""
    (width, height), tiled = size or tile, size is None
    with FakeTensorMode():
        if family is cogvideox:
            dtype, num_frames = torch.bfloat16, 17
            vae = of_dtype(lambda: AutoencoderKLCogVideoX(**(VAE | FULL.vae)), dtype)
        else:
            dtype, num_frames = torch.float32, 9
            vae = of_dtype(AutoencoderKLWan, dtype)
        pixels = torch.empty(1, 3, num_frames, height, width, dtype=dtype)
        latents = torch.empty(1, 16, (num_frames - 1) // 4 + 1, height // 8, width // 8, dtype=dtype)
        encoding = taken(vae, [pixels], vae.encode)
        decoding = taken(vae, [latents], vae.decode)
    clip = Clip(num_frames, *((720, 480) if tiled else size), tiled)
    pixels_bytes = 2 * num_frames * 720 * 480 * 3 * dtype.itemsize
    for found, planned in (
        (encoding, family.encoding_bytes(vae.config, dtype, clip)),
        (decoding, family.decoding_bytes(vae.config, dtype, clip)),
    ):
        assert found <= planned <= SLACK * found + pixels_bytes


@pytest.mark.parametrize(("batch", "cached"), [(2, 0), (1, 0), (2, 2)])
def test_step_takes_what_is_planned_and_so_does_what_replaces_blocks(batch, cached):
    dtype, size = torch.bfloat16, {"num_layers": 3, "num_tracking_blocks": 2}
    with FakeTensorMode():
        model = of_dtype(lambda: DasTransformer3DModel(**(TRANSFORMER | FULL.transformer | size)), dtype)
        tables = model.modulation_tables([999], dtype, torch.device("cpu"))
        inputs = [torch.empty(1, 13, 32, 60, 90, dtype=dtype), torch.empty(batch, 226, 4096, dtype=dtype)]
        rotary = torch.empty(17550, 64), torch.empty(17550, 64)  # small
        run = RunCache(modulation=tables, block_cache=Computing(0.1, 2) if cached else None)

        def steps(latents, text):
            for _ in range(2):  # the second one keeps what the first one has left
                model(
                    latents.expand(batch, -1, -1, -1, -1), text, 999, latents, image_rotary_emb=rotary, run=run,
                    return_dict=False,
                )  # fmt: skip
            return run

        found = taken(model, inputs, steps)
    vae = {"block_out_channels": FULL.vae["block_out_channels"], "temporal_compression_ratio": 4}
    clip = Clip(49, 720, 480, False, batch, cached_rows=cached)
    planned = cogvideox.denoising_bytes((model.config, vae), dtype, clip)
    assert found <= planned <= SLACK * found


class Computing(BlockCache):
    """What it is told has no values, so it cannot decide: nothing is left out, and everything kept."""

    def leaves_out(self, first):
        self.first = first
        return False
