# SPDX-License-Identifier: GPL-3.0-or-later
"""All that is to be known of the full model on one GPU, within six minutes, the most valuable figures first.

    python tests/bench/gpu_report.py [--json out/bench_gpu.json] [--limit-s 360] [--size tiny]

Needs PyTorch and diffusers as they are on that machine, and this repository; weights are random, nothing is downloaded.
Kernels are as deterministic as a server's worker has them.
Every figure is written as it comes, to the JSON and to a table beside it for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

STARTED_S = time.monotonic()
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as a worker has it

import torch  # noqa: E402

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import bench_denoise as bench  # noqa: E402
from denoise_checkpoint import FULL, TINY, VAE, write_checkpoint  # noqa: E402
from denoise_model import build_transformer, make_inputs, randomise, straightforward  # noqa: E402
from denoise_timing import device_peak_gib, free, host_peak_gib, seconds  # noqa: E402
from diffusers import AutoencoderKLCogVideoX, __version__  # noqa: E402
from diffusers.utils.logging import set_verbosity_error  # noqa: E402
from gpu_record import Part, Record, run_parts  # noqa: E402

from das_server.models.float8 import use_float8  # noqa: E402
from das_server.models.transformer import RunCache  # noqa: E402
from das_server.pipeline import acceleration, memory, precision  # noqa: E402
from das_server.pipeline.cogvideox.needs import NEEDS  # noqa: E402
from das_server.pipeline.randomness import deterministic_kernels  # noqa: E402
from das_server.workers.machine import set_up_torch  # noqa: E402

LIMIT_S, START_S = 360.0, 25.0
"""Of the whole run, from its first line on, and of what comes before the first part."""

NUMERIC_TOLERANCE = 0.03
"""Relative RMS by which a lossless setting's step may differ: sixty blocks, each rounded to bfloat16's 0.4 %."""


class Report:
    """The parts, which share a model and what was found before."""

    def __init__(self, setup: bench.Setup, record: Record, backends: list[str]):
        self.setup, self.record, self.backends = setup, record, backends
        self.model, self.inputs, self.arithmetic = None, {}, None
        self.baseline_s, self.exact = None, None
        self.best = (float("inf"), "native", False)
        """Seconds, kernel and compiled of the fastest lossless step."""

    def parts(self) -> list[Part]:
        """In the order of their value; times are guesses for an H100, and leave `START_S` of six minutes."""
        return [
            Part("rates and the straightforward step", 30, self.rates),
            Part("steps, eager", 25, self.eager),
            Part("step, compiled", 70, self.compiled),
            Part("clip", 95, self.clip),
            Part("memory profiles", 55, self.profiles),
            Part("float8, compiled", 45, self.float8),
            Part("VAE", 15, self.vae),
        ]

    def rates(self) -> None:
        setup, put = self.setup, self.record.put
        self.model = build_transformer(setup.size, setup.device, setup.dtype)
        self.inputs = make_inputs(setup.size, self.model)
        self.arithmetic = found = bench.measure_rates(self.model, self.inputs, self.backends)
        put("matrix rate", found.matrix_rate, "TFLOP/s")
        for backend, rate in found.attention_rates.items():
            put(f"attention rate, {backend}", rate, "TFLOP/s")
        put("guidance step, arithmetic", found.linear + found.attention, "TFLOP")
        self.exact = straightforward(self.model, self.inputs)
        self.baseline_s = seconds(lambda: straightforward(self.model, self.inputs), setup.size.repeats)
        put("guidance step, straightforward eager", self.baseline_s, "s")

    def eager(self) -> None:
        for backend in self.arithmetic.attention_rates:
            self.step(backend, False, "bf16" if self.setup.dtype == torch.bfloat16 else "float32")

    def compiled(self) -> None:
        self.step(self.best[1], True, "the fastest kernel")

    def step(self, backend: str, compiled: bool, label: str, *, lossless: bool = True) -> None:
        """One guidance step and one block by a setting, beside the straightforward one, the floor, and in numbers."""
        name = f"guidance step, {backend}, {'compiled' if compiled else 'eager'}, {label}"
        with bench.setting(self.model, backend, compiled) as problem:
            if problem:
                self.record.leave_out(name, problem)
                return
            tables = self.model.modulation_tables([999], self.model.dtype, self.model.device)
            inputs = self.inputs | {"timestep": 999}
            ours = self.model(**inputs, run=RunCache(modulation=tables)).sample
            block_s, step_s = bench.time_setting(self.setup, self.model, self.inputs, tables, name)
        exact = self.model._unpatchify(self.exact, self.inputs["hidden_states"].shape)
        difference = acceleration.relative_difference(ours, exact)
        if step_s is not None:
            of_floor = step_s / self.arithmetic.floor_s(backend)
            aim = f"≤ {bench.GOAL_OF_EAGER} of straightforward, ≤ {bench.GOAL_OF_FLOOR} × the floor" if lossless else ""
            note = f"{step_s / self.baseline_s:.2f} of straightforward, {of_floor:.2f} × the floor"
            self.record.put(name, step_s, "s", aim=aim, note=note)
            if lossless:
                self.best = min(self.best, (step_s, backend, compiled))
        if block_s is not None:
            self.record.put(name.replace("guidance step", "block"), 1e3 * block_s, "ms")
        aim = f"≤ {NUMERIC_TOLERANCE}" if lossless else ""
        self.record.put(name.replace("guidance step", "difference"), difference, "of RMS", aim=aim)

    def clip(self) -> None:
        """From nothing to the first step, and a whole clip by the fastest lossless setting."""
        self.model = None
        free()
        _, backend, compiled = self.best
        ours = {name: kernel for kernel, name in acceleration.DISPATCHER_NAMES.items()}
        started = time.perf_counter()
        pipeline = bench.load(self.setup, "auto", self.setup.folder / "prompts", vae_tiling="auto")
        self.record.put("cold start: model loaded", time.perf_counter() - started, "s", note="from files of zeros")
        bench.make_clip(pipeline, self.setup, 1)
        self.record.put("cold start: first step and what is around it done", time.perf_counter() - started, "s")
        if pipeline.profile != "group_offload":
            randomise(pipeline.transformer)
            randomise(pipeline.vae)
        pipeline.acceleration = acceleration.accelerate(
            pipeline.transformer, device=pipeline.device, dtype=pipeline.dtype, profile=pipeline.profile,
            attention_backend=ours.get(backend, "auto"), compile_blocks=compiled,
        )  # fmt: skip
        bench.make_clip(pipeline, self.setup, 1)  # what is compiled is compiled now
        stages = bench.make_clip(pipeline, self.setup, bench.NUM_STEPS)
        setting = f"{pipeline.profile}, {pipeline.acceleration.attention_backend}"
        setting += ", compiled" if pipeline.acceleration.compiled else ", eager"
        self.record.put(f"clip, {bench.NUM_STEPS} steps, in all", sum(stages.values()), "s", note=setting)
        for stage, time_s in stages.items():
            self.record.put(f"clip, {stage}", time_s, "s")

    def vae(self) -> None:
        size, like = self.setup.size, {"device": self.setup.device, "dtype": self.setup.dtype}
        self.model = None
        free()
        with torch.device(self.setup.device):
            vae = AutoencoderKLCogVideoX(**(VAE | size.vae)).to(self.setup.dtype).eval()
        pixels = torch.randn(1, 3, size.num_frames, size.height, size.width, **like).clamp(-1, 1)
        stride = 2 ** (len(size.vae["block_out_channels"]) - 1)
        shape = (1, 16, (size.num_frames - 1) // 4 + 1, size.height // stride, size.width // stride)
        latents = torch.randn(shape, **like)
        for tiled in (True, False):
            vae.enable_tiling() if tiled else vae.disable_tiling()
            name = "tiled" if tiled else "whole"
            for what, work in (("encode", lambda: vae.encode(pixels)), ("decode", lambda: vae.decode(latents))):
                free()
                self.record.put(f"VAE, {what}, {name}", seconds(work, 1), "s", note=_peak())

    def profiles(self) -> None:
        """Peaks beside the plan, and how much longer a step takes than with everything on the device."""
        self.model = None
        needs, resident_s = NEEDS.at_home(self.setup.folder, self.setup.dtype, vae_tiling=True), None
        aims = {"drop_text_encoder": "≤ 1.15 × resident", "group_offload": "≤ 1.6 × resident"}
        for profile in memory.ON_DEVICE:
            free()
            pipeline = bench.load(self.setup, profile, self.setup.folder / f"prompts of {profile}")
            stages = bench.make_clip(pipeline, self.setup, 2)
            step_s = stages["denoising"] / 2
            resident_s = step_s if profile == "resident" else resident_s
            peak, host = device_peak_gib(), host_peak_gib()
            planned = needs.peak_bytes(profile) / 2**30
            if peak is not None:
                self.record.put(f"{profile}, peak of the device", peak, "GiB", aim=f"≤ {planned:.1f} as planned")
            if host is not None:
                planned = needs.host_bytes(profile) / 2**30
                self.record.put(f"{profile}, peak of the host", host, "GiB", note=f"planned {planned:.1f} and files")
            note = f"{step_s / resident_s:.2f} × resident, zeros as weights" if resident_s else "zeros as weights"
            self.record.put(f"{profile}, step", step_s, "s", aim=aims.get(profile, ""), note=note)
            del pipeline

    def float8(self) -> None:
        problem = precision.why_not_float8(acceleration.describe_device(self.setup.device))
        if problem and self.setup.device.type == "cuda":
            self.record.leave_out("float8", problem)
            return
        free()
        torch.manual_seed(0)
        self.model = build_transformer(self.setup.size, self.setup.device, self.setup.dtype)
        self.exact = straightforward(self.model, self.inputs)
        use_float8(self.model)
        self.step(self.best[1], True, "float8", lossless=False)  # where it pays, and where the product has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("out/bench_gpu.json"))
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="what this leaves no time for is left out")
    parser.add_argument("--size", choices=("auto", "full", "tiny"), default="auto")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = {"full": FULL, "tiny": TINY, "auto": FULL if device.type == "cuda" else TINY}[options.size]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    set_verbosity_error()
    set_up_torch("cuda:0" if device.type == "cuda" else "cpu", torch.get_num_threads(), compiler=True)
    torch.manual_seed(0)
    about = {
        "device": acceleration.describe_device(device).name,
        "torch": f"torch {torch.__version__}",
        "diffusers": f"diffusers {__version__}",
        "model": f"{size.name}: {size.num_frames}x{size.height}x{size.width}, {str(dtype).removeprefix('torch.')}",
        "date": time.strftime("%Y-%m-%d"),
    }
    record = Record(options.json, about)
    print(", ".join(about.values()), flush=True)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), deterministic_kernels():
        setup = bench.Setup(size, device, dtype, write_checkpoint(size, Path(folder), dtype), options.limit_s)
        report = Report(setup, record, list(bench.BACKENDS[device.type][:3]))  # those that come with PyTorch
        if not bench.HAS_TEXT_ENCODER:
            record.leave_out("text encoder", "transformers is not installed; prompts are random numbers")
        run_parts(report.parts(), record, limit_s=options.limit_s - (time.monotonic() - STARTED_S))
    print(f"written: {options.json} and {options.json.with_suffix('.md')}")


def _peak() -> str:
    peak = device_peak_gib()
    return "" if peak is None else f"peak {peak:.1f} GiB"


if __name__ == "__main__":
    main()
