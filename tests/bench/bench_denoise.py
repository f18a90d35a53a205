# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast one block, one guidance step and the VAE are, per attention kernel, compilation and precision.

    python tests/bench/bench_denoise.py                full size on a GPU, tiny on a CPU
    python tests/bench/bench_denoise.py --size tiny    tiny anywhere
    python tests/bench/bench_denoise.py --whole-clip   also run the 50 steps, not only project them

Random weights, made on the device; nothing is downloaded.  Prints, never asserts.  Every step time is compared with a
straightforward eager forward of the same run: stock attention, both tracking rows, all text rows, everything anew.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

from das_server.models.float8 import use_float8
from das_server.models.transformer import DasTransformer3DModel, RunCache
from das_server.pipeline.latents import rotary_positions
from das_server.pipeline.memory import MemoryNeeds, denoising_bytes

NUM_STEPS = 50
BACKENDS = {"cuda": ("native", "_native_cudnn", "flash", "_flash_3_hub"), "cpu": ("native",)}


@dataclass(frozen=True)
class Size:
    """One model and clip: configuration overrides, frames, pixels."""

    name: str
    transformer: dict
    vae: dict
    num_frames: int
    width: int
    height: int
    repeats: int


FULL = Size(
    "full",
    {"num_attention_heads": 48, "num_layers": 42, "num_tracking_blocks": 18},
    {"block_out_channels": (128, 256, 256, 512), "layers_per_block": 3, "sample_height": 480, "sample_width": 720},
    49, 720, 480, 3,
)  # fmt: skip
TINY = Size(
    "tiny",
    {
        "num_attention_heads": 4, "num_layers": 4, "num_tracking_blocks": 2, "sample_width": 18, "sample_height": 12,
        "sample_frames": 17, "text_embed_dim": 64, "max_text_seq_length": 32, "time_embed_dim": 64,
    },
    {
        "block_out_channels": (8, 8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_height": 96,
        "sample_width": 144,
    },
    17, 144, 96, 5,
)  # fmt: skip
SHARED = {
    "attention_head_dim": 64,
    "in_channels": 32,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
}
VAE_SHARED = {
    "latent_channels": 16,
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("auto", "full", "tiny"), default="auto")
    parser.add_argument("--parts", default="rates,block,step,memory,vae", help="comma-separated")
    parser.add_argument("--backends", default="", help="comma-separated (default: those this kind of device may have)")
    parser.add_argument("--whole-clip", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = {"full": FULL, "tiny": TINY, "auto": FULL if device.type == "cuda" else TINY}[options.size]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)

    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads, times are CPU time"
    )
    print(f"{name}; torch {torch.__version__}; {size.name}: {size.num_frames}x{size.height}x{size.width}, {dtype}")
    parts = options.parts.split(",")
    backends = options.backends.split(",") if options.backends else list(BACKENDS[device.type])
    with torch.no_grad():
        rate = matmul_rate(device, dtype) if "rates" in parts else 0.0
        if {"block", "step", "memory"} & set(parts):
            model = build_transformer(size, device, dtype)
            inputs = make_inputs(size, model, device, dtype)
            if "block" in parts:
                bench_block(size, model, inputs, backends)
            if "step" in parts:
                bench_step(size, model, inputs, backends, rate, options.whole_clip)
            if "memory" in parts:
                bench_memory(size, model, inputs)
            del model, inputs
            free()
        if "vae" in parts:
            bench_vae(size, device, dtype)


# ── What is measured ────────────────────────────────────────────────────────────────────────────────────────────────


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured matrix rate in TFLOP/s at the feed-forward's shape."""
    rows, inner = (17776, 3072) if device.type == "cuda" else (1024, 512)
    a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, 4 * inner)))
    rate = 2 * rows * inner * 4 * inner / seconds(lambda: a @ b, 10) / 1e12
    print(f"\nmatrix rate {rate:.2f} TFLOP/s at {rows}x{inner}x{4 * inner}")
    return rate


def bench_block(size: Size, model: DasTransformer3DModel, inputs: dict, backends: list[str]) -> None:
    """One main block on both guidance rows: kernel × compilation × precision."""
    print("\none block, two rows                    ms   of eager native")
    block, tokens = model.transformer_blocks[0], inputs["image_rotary_emb"][0].shape[0]
    channels = model.config.num_attention_heads * model.config.attention_head_dim
    like = {"device": model.device, "dtype": model.dtype}
    call = {
        "hidden_states": torch.randn(2, tokens, channels, **like),
        "encoder_hidden_states": torch.randn(2, model.config.max_text_seq_length, channels, **like),
        "temb": torch.randn(1, model.config.time_embed_dim, **like),
        "image_rotary_emb": inputs["image_rotary_emb"],
    }
    baseline = None
    for precision in ("as is", "float8"):
        if precision == "float8":
            use_float8(model)
        for backend in backends:
            for compiled in (False, True):
                label = f"{backend}, {'compiled' if compiled else 'eager'}, {precision}"
                with setting(model, backend, compiled) as problem:
                    time_s = None if problem else attempt(lambda: block(**call), size.repeats, label)
                    if problem:
                        print(f"  {label:<36} not available: {problem}")
                if time_s is not None:
                    baseline = baseline or time_s
                    print(f"  {label:<36} {1e3 * time_s:8.2f}   {time_s / baseline:.2f}")
    restore_linears(size, model)


def bench_step(
    size: Size, model: DasTransformer3DModel, inputs: dict, backends: list[str], rate: float, whole_clip: bool
) -> None:
    """One guidance step: the straightforward forward, then ours per setting; projected to a whole clip."""
    print("\none guidance step                       s   of straightforward   50 steps, s")
    doubled = inputs | {"tracking_maps": inputs["tracking_maps"].repeat(2, 1, 1, 1, 1)}
    baseline = attempt(lambda: straightforward(model, doubled), size.repeats, "straightforward, eager")
    print(f"  {'straightforward, eager':<36} {baseline:8.3f}   1.00   {NUM_STEPS * baseline:10.1f}")
    tables = model.modulation_tables([999], model.dtype, model.device)
    ours = inputs | {"timestep": 999}
    for precision in ("as is", "float8"):
        if precision == "float8":
            use_float8(model)
        for backend in backends:
            for compiled in (False, True):
                label = f"{backend}, {'compiled' if compiled else 'eager'}, {precision}"
                with setting(model, backend, compiled) as problem:
                    run = RunCache(modulation=tables)
                    time_s = None if problem else attempt(lambda run=run: model(**ours, run=run), size.repeats, label)
                    if problem:
                        print(f"  {label:<36} not available: {problem}")
                    if time_s is None:
                        continue
                    print(f"  {label:<36} {time_s:8.3f}   {time_s / baseline:.2f}   {NUM_STEPS * time_s:10.1f}")
                    if whole_clip:
                        started = clock()
                        for _ in range(NUM_STEPS):
                            model(**ours, run=run)
                        synchronise()
                        print(f"  {'':<36} whole clip: {clock() - started:.1f} s")
    restore_linears(size, model)
    if rate:
        floor = step_tflop(model, inputs) / rate
        print(f"  arithmetic floor at the matrix rate  {floor:8.3f}   {floor / baseline:.2f}")


def bench_memory(size: Size, model: DasTransformer3DModel, inputs: dict) -> None:
    """Peak device memory of one step, resident and with blocks that come from host memory; and the estimate."""
    print("\npeak memory of one step, GiB")
    vae_config = VAE_SHARED | size.vae | {"temporal_compression_ratio": 4}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    blocks = sum(
        p.numel() * p.element_size() for n, p in model.named_parameters() if n.startswith("transformer_blocks")
    )
    largest = sum(p.numel() * p.element_size() for p in model.transformer_blocks[0].parameters())
    clip = (model.dtype, size.num_frames, size.width, size.height)
    needs = MemoryNeeds(weights, blocks, largest, 0, 0, denoising_bytes(model.config, vae_config, *clip), 0)
    for profile in ("resident", "group_offload"):
        if profile == "group_offload":
            streams = model.device.type == "cuda"
            device = model.device
            model.to("cpu")
            model.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1, use_stream=streams)
        free()
        for _ in range(2):  # streams learn the order of the blocks in the first pass
            time_s = seconds(lambda: model(**inputs), 1, warm_up=0)
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
        estimate = needs.peak_bytes(profile) / 2**30
        print(f"  {profile:<20} measured {peak:6.2f}   estimated {estimate:6.2f}   {time_s:.2f} s")


def bench_vae(size: Size, device: torch.device, dtype: torch.dtype) -> None:
    """Encoding the tracking video and decoding the clip, tiled and whole."""
    print("\nVAE                       encode s   decode s   peak GiB")
    with torch.device(device):
        vae = AutoencoderKLCogVideoX(**(VAE_SHARED | size.vae)).to(dtype).eval()
    num_frames = size.num_frames if device.type == "cuda" else 9
    pixels = torch.zeros(1, 3, num_frames, size.height, size.width, device=device, dtype=dtype)
    for tiled in (True, False):
        vae.enable_tiling() if tiled else vae.disable_tiling()
        free()
        latents = vae.encode(pixels).latent_dist.mean
        encode = attempt(lambda: vae.encode(pixels).latent_dist.mean, 1, "encode")
        decode = attempt(lambda latents=latents: vae.decode(latents).sample, 1, "decode")
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        if encode is not None and decode is not None:
            print(f"  {'tiled' if tiled else 'whole':<22} {encode:9.3f} {decode:10.3f} {peak:10.2f}")


# ── The models and inputs ───────────────────────────────────────────────────────────────────────────────────────────


def build_transformer(size: Size, device: torch.device, dtype: torch.dtype) -> DasTransformer3DModel:
    """Random weights directly on the device, in ``dtype``."""
    with torch.device("meta"):
        model = DasTransformer3DModel(**(SHARED | size.transformer)).to(dtype)
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for parameter in [*model.parameters(), *model.buffers()]:
        parameter.normal_(std=0.02)
    return model


def restore_linears(size: Size, model: DasTransformer3DModel) -> None:
    """After float8: fresh random weights in the old precision."""
    device, dtype = next(model.patch_embed.parameters()).device, next(model.patch_embed.parameters()).dtype
    blocks = (model.transformer_blocks, model.transformer_blocks_copy)
    for group in blocks:
        for index in range(len(group)):
            group[index] = None
    free()
    fresh = build_transformer(size, device, dtype)
    model.transformer_blocks, model.transformer_blocks_copy = fresh.transformer_blocks, fresh.transformer_blocks_copy


def make_inputs(size: Size, model: DasTransformer3DModel, device: torch.device, dtype: torch.dtype) -> dict:
    """Both guidance rows, one row of tracking."""
    config, like = model.config, {"device": device, "dtype": dtype}
    shape = (2, (size.num_frames - 1) // 4 + 1, 32, size.height // 8, size.width // 8)
    return {
        "hidden_states": torch.randn(shape, **like),
        "encoder_hidden_states": torch.randn(2, config.max_text_seq_length, config.text_embed_dim, **like),
        "timestep": torch.tensor([999, 999], device=device),
        "tracking_maps": torch.randn((1, *shape[1:]), **like),
        "image_rotary_emb": rotary_positions(
            head_dim=config.attention_head_dim,
            grid_size=(shape[3] // 2, shape[4] // 2),
            base_size=(config.sample_height // 2, config.sample_width // 2),
            num_latent_frames=shape[1],
            device=device,
        ),
    }


def straightforward(model: DasTransformer3DModel, inputs: dict) -> torch.Tensor:
    """The computation without any short cut: stock blocks and attention, every row, everything anew."""
    latents, text, timestep = inputs["hidden_states"], inputs["encoder_hidden_states"], inputs["timestep"]
    temb = model.time_embedding(model.time_proj(timestep).to(latents.dtype))
    length = text.shape[1]
    joint, tracking = model.patch_embed(text, latents), model.patch_embed(text, inputs["tracking_maps"])
    text, video = joint[:, :length], joint[:, length:]
    control = model.initial_combine_linear(video + tracking[:, length:])
    stock = CogVideoXAttnProcessor2_0()
    blocks = (*model.transformer_blocks, *model.transformer_blocks_copy)
    ours = [block.attn1.processor for block in blocks]
    for block in blocks:
        block.attn1.processor = stock
    for index, block in enumerate(model.transformer_blocks):
        video, text = CogVideoXBlock.forward(block, video, text, temb, inputs["image_rotary_emb"])
        if index < len(model.transformer_blocks_copy):
            copy = model.transformer_blocks_copy[index]
            control, _ = CogVideoXBlock.forward(copy, control, text, temb, inputs["image_rotary_emb"])
            control = model.combine_linears[index](control)
            video = video + control
    for block, processor in zip(blocks, ours, strict=True):
        block.attn1.processor = processor
    return model.proj_out(model.norm_out(model.norm_final(video), temb=temb))


def step_tflop(model: DasTransformer3DModel, inputs: dict) -> float:
    """Arithmetic of one guidance step: 24·n·d² + 4·n²·d per block and row, 2·n·d² per combining linear."""
    config = model.config
    d = config.num_attention_heads * config.attention_head_dim
    n = inputs["image_rotary_emb"][0].shape[0] + config.max_text_seq_length
    blocks, linears = config.num_layers + config.num_tracking_blocks, config.num_tracking_blocks + 1
    return 2 * (blocks * (24 * n * d**2 + 4 * n**2 * d) + linears * 2 * n * d**2) / 1e12


# ── Measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def setting(model: DasTransformer3DModel, backend: str, compiled: bool) -> Iterator[str]:
    """Inside, every block uses this attention kernel and is compiled or not; yields why it cannot be ("" = it can)."""
    problem = ""
    try:
        model.set_attention_backend(backend)
    except Exception as error:  # a kernel that is not installed or not for this device
        problem = str(error).splitlines()[0][:70]
    blocks = (*model.transformer_blocks, *model.transformer_blocks_copy)
    if compiled and not problem:
        torch._dynamo.reset()
        model.compile_repeated_blocks(fullgraph=True)
    try:
        yield problem
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        model.set_attention_backend("native")  # the choice is also kept globally


def attempt(function: Callable[[], object], repeats: int, label: str) -> float | None:
    """`seconds`, or None with a printed reason where this device cannot."""
    try:
        return seconds(function, repeats)
    except Exception as error:
        print(f"  {label:<36} failed: {type(error).__name__}: {str(error).splitlines()[0][:70]}")
        return None


def seconds(function: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of one call."""
    for _ in range(warm_up):
        function()
    synchronise()
    times = []
    for _ in range(repeats):
        started = clock()
        function()
        synchronise()
        times.append(clock() - started)
    return statistics.median(times)


def clock() -> float:
    """Wall time on a GPU; on a CPU the process's own time, which a busy machine disturbs less."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
