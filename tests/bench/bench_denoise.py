# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast and how large the model is: one block, one guidance step, a whole clip, the VAE, and every memory profile.

    python tests/bench/bench_denoise.py                full size on a GPU, tiny on a CPU
    python tests/bench/bench_denoise.py --size tiny    tiny anywhere
    python tests/bench/bench_denoise.py --parts speed  only that; there are speed, clip, memory, vae

Random weights or none; nothing is downloaded.  Prints, never asserts; what a device cannot do is said and left out.

speed   every attention kernel × (eager, compiled as the product compiles) × (as is, float8), beside a straightforward
        eager forward of the same run (stock attention, both tracking rows, all text rows, everything anew) and the
        arithmetic floor: the linears at the measured matrix rate plus attention at the kernel's own measured rate
clip    the product's pipeline, text to frames: 50 steps of the sampler; projected only where it would take too long
memory  the product's pipeline laid out by every profile: measured peak beside the estimate that the product plans with
vae     encoding the tracking video and decoding the clip, tiled and whole
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from denoise_checkpoint import FULL, TINY, VAE, Size, write_checkpoint
from denoise_model import build_transformer, make_inputs, randomise, straightforward
from denoise_timing import attempt, cell, device_peak_gib, first_line, free, host_peak_gib, seconds, synchronise
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.utils.logging import set_verbosity_error
from PIL import Image

from das_server.models.float8 import use_float8
from das_server.models.transformer import DasTransformer3DModel, RunCache
from das_server.pipeline import acceleration, memory, precision
from das_server.pipeline.cogvideox.needs import NEEDS
from das_server.pipeline.cogvideox.pipeline import DEFAULT_NEGATIVE_PROMPT, DasPipeline
from das_server.pipeline.prompt import PromptCache
from das_server.pipeline.randomness import deterministic_kernels

NUM_STEPS = 50
PROMPT = "a boat"
HAS_TEXT_ENCODER = importlib.util.find_spec("transformers") is not None
"""Without its library, prompts are random numbers: a step takes as long with them."""
PARTS = ("speed", "clip", "memory", "vae")
BACKENDS = {
    "cuda": ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3_hub"),
    "cpu": ("native", "_native_cudnn", "_native_flash", "flash"),
}
"""Names of diffusers' dispatcher: the first three come with PyTorch, the others with packages of their own."""

GOAL_OF_EAGER, GOAL_OF_FLOOR = 0.60, 1.3
"""Times of a lossless setting: of the straightforward forward's, of the arithmetic floor's."""


@dataclass(frozen=True)
class Setup:
    """Where and what: ``folder`` holds a checkpoint of this size, see `denoise_checkpoint`."""

    size: Size
    device: torch.device
    dtype: torch.dtype
    folder: Path
    clip_limit_s: float


@dataclass(frozen=True)
class Arithmetic:
    """TFLOP of one guidance step, and TFLOP/s measured: of matrices and of attention per kernel that works here."""

    linear: float
    attention: float
    matrix_rate: float
    attention_rates: dict[str, float]

    def floor_s(self, backend: str) -> float:
        """The least time of one guidance step at these rates."""
        return self.linear / self.matrix_rate + self.attention / self.attention_rates[backend]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("auto", "full", "tiny"), default="auto")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--backends", default="", help="comma-separated (default: those this kind of device may have)")
    parser.add_argument("--clip-limit-s", type=float, default=300.0, help="a longer clip is only projected")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = {"full": FULL, "tiny": TINY, "auto": FULL if device.type == "cuda" else TINY}[options.size]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    sys.stdout.reconfigure(line_buffering=True)  # a run that is cut off has said what it knows
    set_verbosity_error()  # it says with every setting that attention kernels can be chosen

    about = acceleration.describe_device(device)
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads, times are CPU time"
    print(f"{about.name}{threads}; torch {torch.__version__}")
    print(f"{size.name}: {size.num_frames}x{size.height}x{size.width}, {str(dtype).removeprefix('torch.')}")
    parts = options.parts.split(",")
    backends = options.backends.split(",") if options.backends else list(BACKENDS[device.type])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), deterministic_kernels():
        setup = Setup(size, device, dtype, write_checkpoint(size, Path(folder), dtype), options.clip_limit_s)
        benches = {"clip": bench_clip, "memory": bench_memory, "vae": bench_vae}
        benches["speed"] = lambda setup: bench_speed(setup, backends)
        for part in parts:
            attempt(lambda part=part: benches[part](setup), part)
            free()


# ── Speed of a block and of a step ──────────────────────────────────────────────────────────────────────────────────


def bench_speed(setup: Setup, backends: list[str]) -> None:
    """Every setting beside the straightforward forward and the arithmetic floor."""
    model = build_transformer(setup.size, setup.device, setup.dtype)
    inputs = make_inputs(setup.size, model)
    arithmetic = measure_rates(model, inputs, backends)
    head = f"{'block ms':>10}{'step s':>10}{'of straightf.':>15}{'of floor':>10}{'50 steps, s':>13}"
    print(f"\n{'setting':<38}{head}")
    label = "straightforward, eager"
    baseline = attempt(lambda: seconds(lambda: straightforward(model, inputs), setup.size.repeats), label)
    print_setting(label, None, baseline, baseline, arithmetic.floor_s("native"))

    tables = model.modulation_tables([999], model.dtype, model.device)
    for kind in ("as is", "float8"):
        if kind == "float8":
            problem = precision.why_not_float8(acceleration.describe_device(setup.device))
            if problem:
                print(f"  {problem}: {'left out' if setup.device.type == 'cuda' else 'its numbers are emulated'}")
            if problem and setup.device.type == "cuda":
                break
            use_float8(model)
        best = (float("inf"), "", "")
        for backend in arithmetic.attention_rates:
            for compiled in (False, True):
                label = f"{backend}, {'compiled' if compiled else 'eager'}, {kind}"
                with setting(model, backend, compiled) as problem:
                    if problem:
                        print(f"  {label:<36} not available: {problem}")
                        continue
                    block_s, step_s = time_setting(setup, model, inputs, tables, label)
                print_setting(label, block_s, step_s, baseline, arithmetic.floor_s(backend))
                if step_s is not None:
                    best = min(best, (step_s, label, backend))
        print_best(best, kind, baseline, arithmetic)


def time_setting(
    setup: Setup, model: DasTransformer3DModel, inputs: dict, tables: dict, label: str
) -> tuple[float | None, float | None]:
    """Seconds of one main block on both guidance rows, and of one guidance step after the first of its run."""
    block, tokens = model.transformer_blocks[0], inputs["image_rotary_emb"][0].shape[0]
    channels = model.config.num_attention_heads * model.config.attention_head_dim
    like = {"device": model.device, "dtype": model.dtype}
    call = {
        "hidden_states": torch.randn(2, tokens, channels, **like),
        "encoder_hidden_states": torch.randn(2, model.config.max_text_seq_length, channels, **like),
        "temb": None,
        "image_rotary_emb": inputs["image_rotary_emb"],
        "modulation": tables[999].blocks[0],
    }
    block_s = attempt(lambda: seconds(lambda: block(**call), setup.size.repeats), f"{label}, block")
    run = RunCache(modulation=tables)
    step = inputs | {"timestep": 999, "run": run}
    return block_s, attempt(lambda: seconds(lambda: model(**step), setup.size.repeats), label)


def measure_rates(model: DasTransformer3DModel, inputs: dict, backends: list[str]) -> Arithmetic:
    """Matrix rate at the feed-forward's shape, attention rate per kernel at the job's; both guidance rows.

    TFLOP: 24·n·d² and 4·n²·d per block and row, 2·n·d² per combining linear and row.
    """
    config, like = model.config, {"device": model.device, "dtype": model.dtype}
    d = config.num_attention_heads * config.attention_head_dim
    n = inputs["image_rotary_emb"][0].shape[0] + config.max_text_seq_length
    blocks, linears = config.num_layers + config.num_tracking_blocks, config.num_tracking_blocks + 1
    linear, attention = 2 * (blocks * 24 * n * d**2 + linears * 2 * n * d**2) / 1e12, 2 * blocks * 4 * n**2 * d / 1e12
    print(f"\none guidance step: {linear + attention:.4g} TFLOP, {attention:.4g} of them attention")

    a, b = torch.randn(2 * n, d, **like), torch.randn(d, 4 * d, **like)
    matrix_rate = 2 * 2 * n * d * 4 * d / seconds(lambda: a @ b, 10) / 1e12
    print(f"  matrices {2 * n}x{d}x{4 * d}: {matrix_rate:.4g} TFLOP/s")
    heads = (config.num_attention_heads, config.attention_head_dim)
    query, key, value = (torch.randn(2, n, *heads, **like) for _ in "qkv")
    rates = {}
    for backend in backends:
        with setting(model, backend, False) as problem:
            try:
                if problem:
                    raise RuntimeError(problem)
                name = AttentionBackendName(backend)
                time_s = seconds(lambda name=name: dispatch_attention_fn(query, key, value, backend=name), 10)
            except Exception as error:  # whatever a kernel does where it cannot run
                print(f"  attention {backend}: not available: {first_line(error)}")
                continue
        rates[backend] = 2 * 4 * n**2 * d / time_s / 1e12
        print(f"  attention {backend}: {rates[backend]:.4g} TFLOP/s")
    shape = {"heads": config.num_attention_heads, "head_dim": config.attention_head_dim}
    chosen = acceleration.pick_attention("auto", **shape, text_rows=config.max_text_seq_length, **like)
    print(f'  the product\'s "auto" takes {chosen.attention_backend}: {chosen.reason}')
    return Arithmetic(linear, attention, matrix_rate, rates)


def print_setting(
    label: str, block_s: float | None, step_s: float | None, baseline: float | None, floor_s: float
) -> None:
    if block_s is None and step_s is None:
        return
    of_baseline = step_s / baseline if step_s is not None and baseline is not None else None
    of_floor, projected = (None, None) if step_s is None else (step_s / floor_s, NUM_STEPS * step_s)
    columns = cell(None if block_s is None else 1e3 * block_s, 10) + cell(step_s, 10, 4) + cell(of_baseline, 15)
    print(f"  {label:<36}{columns}{cell(of_floor, 10)}{cell(projected, 13, 1)}")


def print_best(best: tuple[float, str, str], kind: str, baseline: float | None, arithmetic: Arithmetic) -> None:
    """The best setting of a precision beside the goals."""
    step_s, label, backend = best
    if not label:
        return
    of_eager = "of no straightforward time" if baseline is None else f"{step_s / baseline:.2f} of straightforward"
    goals = f"goals {GOAL_OF_EAGER:.2f} and {GOAL_OF_FLOOR}" if kind == "as is" else "lossy; the same floor"
    print(f"  best: {label}: {of_eager}, {step_s / arithmetic.floor_s(backend):.2f} of the floor ({goals})")


@contextlib.contextmanager
def setting(model: DasTransformer3DModel, backend: str, compiled: bool) -> Iterator[str]:
    """Inside, every block uses this attention kernel and is compiled as the product does or not; yields why it cannot
    be ("" = it can)."""
    problem, used = "", acceleration.Acceleration()
    if compiled:
        torch._dynamo.reset()
        place = {"device": model.device, "dtype": model.dtype, "profile": "resident"}
        used = acceleration.accelerate(model, **place, attention_backend="native", compile_blocks=True)
        problem = "" if used.compiled else "nothing can be compiled here"
    try:
        model.set_attention_backend(backend)
    except Exception as error:  # a kernel that is not installed or not for this device
        problem = first_line(error)
    try:
        yield problem
    finally:
        acceleration.undo_compilation(model, used)
        model.set_attention_backend("native")  # the choice is also kept globally


# ── The product's pipeline ──────────────────────────────────────────────────────────────────────────────────────────


def bench_clip(setup: Setup) -> None:
    """A whole clip, text to frames, by the product's pipeline: as it is, compiled, and in float8 where that can be."""
    print(f"\nwhole clip, {NUM_STEPS} steps                 seconds per stage")
    pipeline = load(setup, "auto", setup.folder / "prompts of clips")
    if pipeline.profile != "group_offload":  # zeros would let a GPU run faster than it can
        for module in (pipeline.transformer, pipeline.vae):
            randomise(module)
    for kind in ("as the product starts", "compiled", "compiled, float8"):
        if kind == "compiled":
            pipeline.acceleration = acceleration.accelerate(
                pipeline.transformer, device=pipeline.device, dtype=pipeline.dtype, profile=pipeline.profile,
                compile_blocks=True,
            )  # fmt: skip
        if kind.endswith("float8"):
            problem = precision.why_not_float8(acceleration.describe_device(pipeline.device))
            if problem or pipeline.profile == "group_offload":
                print(f"  {kind:<36} not run: {problem or 'the blocks are offloaded'}")
                continue
            use_float8(pipeline.transformer)
        attempt(lambda kind=kind: run_clip(setup, pipeline, kind), kind)


def run_clip(setup: Setup, pipeline: DasPipeline, label: str) -> None:
    """Two steps first, which also compile; then all, unless those two say that it takes too long."""
    make_clip(pipeline, setup, 2)
    stages = make_clip(pipeline, setup, 2)
    projected = sum(stages.values()) + (NUM_STEPS - 2) * stages["denoising"] / 2
    text = f"  {label:<36} {pipeline.profile}, {pipeline.acceleration.attention_backend}"
    text += ", compiled" if pipeline.acceleration.compiled else ", eager"
    if projected > setup.clip_limit_s:
        print(f"{text}: not run, projected {projected:.1f} s")
        return
    stages = make_clip(pipeline, setup, NUM_STEPS)
    print(f"{text}: {', '.join(f'{name} {time_s:.2f}' for name, time_s in stages.items())}, in all", end=" ")
    print(f"{sum(stages.values()):.1f} (projected {projected:.1f})")


def bench_memory(setup: Setup) -> None:
    """Two steps and everything around them under every memory profile: what it takes, and what the product expects."""
    needs = NEEDS.at_home(setup.folder, setup.dtype, vae_tiling=True)
    print("\npeak memory, GiB         device   estimated     host   estimated    load s   2 steps s")
    for profile in memory.PROFILES:
        place = cell(needs.peak_bytes(profile) / 2**30, 12), cell(needs.host_bytes(profile) / 2**30, 12)
        if profile == "cpu" and setup.size is FULL:
            print(f"  {profile:<20}{cell(None, 9)}{place[0]}{cell(None, 9)}{place[1]}   not run: it would take hours")
            continue
        free()
        measured = attempt(lambda profile=profile: run_profile(setup, profile), profile)
        if measured is not None:
            device, host, load_s, run_s = measured
            row = cell(device, 9) + place[0] + cell(host, 9) + place[1] + cell(load_s, 10) + cell(run_s, 12)
            print(f"  {profile:<20}{row}")


def run_profile(setup: Setup, profile: str) -> tuple[float | None, float | None, float, float]:
    """(Peak of the device, peak of the host, seconds to load, seconds of two steps and what is around them)."""
    started = time.perf_counter()
    pipeline = load(setup, profile, setup.folder / f"prompts of {profile}")
    loaded = time.perf_counter()
    make_clip(pipeline, setup, 2)
    return device_peak_gib(), host_peak_gib(), loaded - started, time.perf_counter() - loaded


def load(setup: Setup, profile: str, prompts: Path, *, vae_tiling: bool | str = True) -> DasPipeline:
    """The product's pipeline; ``vae_tiling`` "auto" is what the server does, True what profiles are planned with."""
    place = {"device": setup.device, "profile": profile, "vae_tiling": vae_tiling}
    pipeline = DasPipeline.from_pretrained(
        setup.folder, torch_dtype=setup.dtype, prompt_cache=PromptCache(prompts), **place
    )
    if not HAS_TEXT_ENCODER:
        encoder, config = pipeline.prompt_encoder, pipeline.transformer.config
        for text in (PROMPT, DEFAULT_NEGATIVE_PROMPT):
            embeds = torch.randn(1, config.max_text_seq_length, config.text_embed_dim, dtype=setup.dtype)
            encoder.cache.put(encoder.key(text, pipeline.device), embeds)
    return pipeline


def make_clip(pipeline: DasPipeline, setup: Setup, num_steps: int) -> dict[str, float]:
    """One clip of the size's own length; → seconds per stage."""
    size = setup.size
    times: list[tuple[str, float]] = []

    def tell(stage: str) -> None:
        synchronise()
        times.append((stage, time.perf_counter()))

    video = np.zeros((size.num_frames, size.height, size.width, 3), np.uint8)
    pipeline(PROMPT, video, Image.new("RGB", (size.width, size.height)), num_inference_steps=num_steps, on_stage=tell)
    tell("")
    return {stage: after - at for (stage, at), (_, after) in zip(times, times[1:], strict=False)}


def bench_vae(setup: Setup) -> None:
    """Encoding the tracking video and decoding the clip, tiled and whole."""
    print("\nVAE                       encode s   decode s   peak GiB")
    size, like = setup.size, {"device": setup.device, "dtype": setup.dtype}
    with torch.device(setup.device):
        vae = AutoencoderKLCogVideoX(**(VAE | size.vae)).to(setup.dtype).eval()
    pixels = torch.randn(1, 3, size.num_frames, size.height, size.width, **like).clamp(-1, 1)
    stride = 2 ** (len(size.vae["block_out_channels"]) - 1)
    latents = torch.randn(1, 16, (size.num_frames - 1) // 4 + 1, size.height // stride, size.width // stride, **like)
    for tiled in (True, False):
        vae.enable_tiling() if tiled else vae.disable_tiling()
        free()
        name = "tiled" if tiled else "whole"
        encode = attempt(lambda: seconds(lambda: vae.encode(pixels).latent_dist.mean, 1), f"{name}, encode")
        decode = attempt(lambda: seconds(lambda: vae.decode(latents).sample, 1), f"{name}, decode")
        print(f"  {name:<22}{cell(encode, 10, 3)} {cell(decode, 10, 3)} {cell(device_peak_gib(), 10)}")


if __name__ == "__main__":
    main()
