# SPDX-License-Identifier: GPL-3.0-or-later
"""What each speed saves and loses against the exact clip with the same seed: `python tests/bench/bench_speed.py`.

Clips are held-out Blender scenes (rendered once, into `out/bench_speed/clips`).  Without `--model` it is the embedded
preview model; with `--model das-cogvideox-5b`, on a machine that has its weights, the full one, on the same clips at
its own size.  Loss: PSNR of the frames, and the track error, how far (pixels) a textured patch of 7 × 7 lies from where
the exact clip has it.  Time: of denoising alone, and which share of the exact clip's it is.  `--sweep` measures
thresholds of the block cache by themselves, which is how those of `pipeline/cogvideox/speeds.py` were found.

Prints, asserts nothing; `out/bench_speed/speed.json` has every number.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "bench_speed"
REACH, PATCH, TEXTURE = 3, 7, 12.0
"""Largest displacement that is looked for and the patch's side, pixels; deviation of a patch, in 8-bit levels, from
which on it can be told where it lies."""
SWEEP = (0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)
IN_A_ROW = (2, 4)
OTHER_SEED = "exact, another seed"
"""What two clips differ by that are equally good."""


def track_error(frames, truth) -> float:
    """Mean displacement, pixels, of textured patches of ``frames`` against ``truth``, u8 [T,H,W,3], from frame 1 on."""
    import torch
    from torch.nn.functional import avg_pool2d, pad

    ours, theirs = (torch.from_numpy(video[1:]).permute(0, 3, 1, 2).float() for video in (frames, truth))
    margin = REACH + PATCH // 2
    smooth = lambda image: avg_pool2d(image, PATCH, 1, PATCH // 2)  # noqa: E731
    deviation = (smooth(theirs**2) - smooth(theirs) ** 2).clamp(min=0).sqrt().mean(1)
    padded = pad(ours, (REACH,) * 4, mode="replicate")
    best, distance = torch.full_like(deviation, float("inf")), torch.zeros_like(deviation)
    offsets = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    for y, x in sorted(offsets, key=lambda one: one[0] ** 2 + one[1] ** 2):  # of equal ones, the nearest
        height, width = ours.shape[2:]
        moved = padded[:, :, REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        difference = smooth((moved - theirs) ** 2).mean(1)
        better = difference < best - 1e-3
        best[better], distance[better] = difference[better], (y * y + x * x) ** 0.5
    inside = slice(margin, -margin)
    counted = deviation[:, inside, inside] >= TEXTURE
    return float(distance[:, inside, inside][counted].mean()) if counted.any() else 0.0


class Runner:
    """One loaded model; clips are fitted to its size."""

    def __init__(self, model: str, steps: int, guidance: float):
        from das_server.models.registry import model_spec
        from das_server.pipeline.loading import load_pipeline

        self.spec = model_spec(model)
        self.pipeline = load_pipeline(model)
        self.steps, self.guidance = steps, guidance

    def frames(self, clip, speed: str) -> tuple:
        """(frames, seconds of denoising, settings).  `OTHER_SEED`: exact, from other noise."""
        import numpy as np
        import torch
        from PIL import Image

        tracking, first = clip.tracking, Image.fromarray(clip.rgb[0])
        if not self.spec.size_range.multiple:
            size = self.spec.sizes[0]
            places = np.minimum(np.arange(self.spec.num_frames[-1]), len(tracking) - 1)
            tracking = np.stack([np.asarray(Image.fromarray(tracking[place]).resize(size, 0)) for place in places])
            first = first.resize(size)
        began = {}
        result = self.pipeline(
            "", tracking, first, num_inference_steps=self.steps, guidance_scale=self.guidance,
            speed="exact" if speed == OTHER_SEED else speed,
            generator=torch.Generator().manual_seed(int(speed == OTHER_SEED)),
            on_stage=lambda stage: began.setdefault(stage, time.monotonic()),
        )  # fmt: skip
        return np.asarray(result.frames), began["decoding"] - began["denoising"], result.settings


def measure(runner: Runner, clips: list, speeds: list[str]) -> list[dict]:
    """A row per clip and speed; every clip is made exactly first."""
    from das_server.training.evaluate import psnr

    rows = []
    for clip in clips:
        truth, exact_s, _ = runner.frames(clip, "exact")
        for speed in speeds:
            frames, seconds, settings = runner.frames(clip, speed)
            computed, left_out = (settings.get(f"passes_{name}", 0) for name in ("computed", "left_out"))
            rows.append(
                {
                    "clip": clip.name, "speed": speed, "psnr": psnr(frames, truth),
                    "track_error": track_error(frames, truth), "share_of_time": seconds / exact_s, "exact_s": exact_s,
                    "steps": settings.get("steps_made", runner.steps), "guided": settings.get("guided_steps", 0),
                    "left_out": left_out / max(1, computed + left_out),
                }
            )  # fmt: skip
        print(clip.name, "exact" if not speeds else f"{exact_s:.1f} s exact", flush=True)
    return rows


def fit(runner: Runner, clips: list) -> str:
    """For each threshold: how many passes a cache would leave out of exact clips, and by how much (relative RMS) what
    it would add instead of the left out blocks differs from what they add."""
    from das_server.models.block_cache import BlockCache
    from das_server.pipeline.cogvideox.speeds import SPEEDS, Speed

    class Recorder(BlockCache):
        def leaves_out(self, first):
            passes.append([first, None])
            return False

        def keep(self, rest):
            passes[-1][1] = rest

    class Recorded(Speed):
        def cache(self):
            return Recorder(0.0, 0)

    SPEEDS["recorded"], found = Recorded(), {}
    for clip in clips:
        passes: list = []
        runner.frames(clip, "recorded")
        for threshold in SWEEP:
            for most in IN_A_ROW:
                cache, errors = BlockCache(threshold, most), found.setdefault((threshold, most), [])
                for first, rest in passes:
                    if cache.leaves_out(first):
                        errors.append(float((cache.rest - rest).norm() / rest.norm()))
                    else:
                        cache.keep(rest)
                        errors.append(None)
    lines = ["| threshold | most in a row | passes left out | error of what is added instead: mean (worst) |"]
    lines.append("|---|---|---|---|")
    for (threshold, most), errors in found.items():
        left_out = [one for one in errors if one is not None]
        words = f"{sum(left_out) / len(left_out):.1%} ({max(left_out):.1%})" if left_out else "-"
        lines.append(f"| {threshold:g} | {most} | {len(left_out) / len(errors):.0%} | {words} |")
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """Means over the clips, and the worst one."""
    lines = ["| speed | steps | blocks left out | denoising time | PSNR mean (worst) | track error mean (worst), px |"]
    lines.append("|---|---|---|---|---|---|")
    for speed in dict.fromkeys(row["speed"] for row in rows):
        chosen = [row for row in rows if row["speed"] == speed]

        def mean(name, chosen=chosen):
            return sum(row[name] for row in chosen) / len(chosen)

        lines.append(
            f"| {speed} | {mean('steps'):.0f} | {mean('left_out'):.0%} of passes | {mean('share_of_time'):.2f} | "
            f"{mean('psnr'):.1f} ({min(row['psnr'] for row in chosen):.1f}) dB | "
            f"{mean('track_error'):.3f} ({max(row['track_error'] for row in chosen):.3f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="das-preview")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--per-kind", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--clips", type=Path, default=OUT / "clips")
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    command = [sys.executable, "-m", "tests.support.held_out_clips", str(options.clips)]
    command += ["--per-kind", str(options.per_kind)]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        return 1

    from das_server.pipeline.cogvideox.speeds import SPEEDS, Speed
    from das_server.training.evaluate import load_clips

    speeds = [*(name for name in SPEEDS if name != "exact"), OTHER_SEED]
    if options.sweep:
        print(fit(Runner(options.model, options.steps, options.guidance), load_clips(options.clips)[: options.limit]))
        # One lever at a time: caches, fewer steps, guidance in part of the steps.
        levers = {f"cache {value:g}": Speed(threshold=value, most_in_a_row=4) for value in SWEEP[1::2]}
        levers |= {f"steps {share:g}": Speed(steps=share) for share in (0.5, 0.4)}
        if options.guidance > 1:
            levers |= {f"guidance from {value:g}": Speed(guidance=value) for value in (0.25, 0.5, 1.0)}
        SPEEDS.update(levers)
        speeds = [*levers, OTHER_SEED]
    runner = Runner(options.model, options.steps, options.guidance)
    rows = measure(runner, load_clips(options.clips)[: options.limit], speeds)
    OUT.mkdir(parents=True, exist_ok=True)
    about = {name: getattr(options, name) for name in ("model", "steps", "guidance")}
    about |= {"machine": platform.machine(), "device": str(runner.pipeline.device), "rows": rows}
    (OUT / "speed.json").write_text(json.dumps(about, indent=1))
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
