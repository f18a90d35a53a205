# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the embedded preview model on held-out Blender scenes: tables and contact sheets in `out/preview_eval/`.

Prints, asserts nothing. `--checkpoint FOLDER` measures another one; `--limit N` takes the first N clips only; `--large`
takes a few clips of 360x240 and the whole demo scene at 192x128 instead, into `out/preview_eval_large/`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def claims(first: int, last: int) -> tuple[tuple[str, str, str], ...]:
    """(better, worse, number): what the model is meant to be better than, at `first` and at `last` steps."""
    return ((f"model_{first}", f"other_{first}", "psnr"), ("carried", "carried_other", "psnr"),
            (f"model_{first}", "frozen", "psnr"),
            *((f"model_{first}", "carried", key) for key in ("psnr", "psnr_visible", "psnr_holes")),
            (f"model_{first}", "static", "psnr"), (f"model_{first}", "warp", "psnr"),
            *((f"composed_{first}", "composed_carried", key) for key in ("psnr", "ssim", "psnr_holes")),
            (f"model_{last}", f"model_{first}", "psnr"), (f"composed_{last}", f"composed_{first}", "psnr"),
            *((f"composed_{first}", "warp", key) for key in ("psnr", "ssim", "psnr_visible", "psnr_holes")))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "das_server" / "models" / "das_preview")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    out = options.out or ROOT / "out" / ("preview_eval_large" if options.large else "preview_eval")
    folder = options.clips or ROOT / "out" / ("preview_eval_large" if options.large else "preview_eval") / "clips"
    sys.path.insert(0, str(ROOT))

    # 1. Clips: rendered once, in a process of their own because Blender ends with it.
    command = [sys.executable, "-m", "tests.support.held_out_clips", str(folder)]
    command += ["--set", "large" if options.large else "motion"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as renderer:
        if renderer.wait():
            return renderer.returncode

    # 2. Every variant of every clip, and its contact sheet.
    from das_server.training import evaluate as evaluation

    clips = evaluation.load_clips(folder)[:options.limit]
    columns = ("warp", f"model_{options.steps[0]}", f"composed_{options.steps[0]}", f"other_{options.steps[0]}")

    def sheet(clip, variants):
        shown = tuple(name for name in columns if name in variants)
        evaluation.contact_sheet(clip, variants, out / "sheets" / f"{clip.name}.png", shown)
        print(f"{clip.name}: {len(variants)} variants", flush=True)

    started = time.monotonic()
    rows = evaluation.evaluate(options.checkpoint, clips, options.steps, each=sheet)

    # 3. Tables: all clips, both definitions of motion; with --large every clip by itself, too.
    print(evaluation.write_table(rows, out))
    for better, worse, key in claims(options.steps[0], options.steps[-1]):
        for selection, words in evaluation.SELECTIONS.items():
            mean, error, won, count = evaluation.paired(rows, better, worse, key, selection)
            print(f"{better} - {worse}, {key}, {words}: {mean:+.3f} ± {error:.3f}, better on {won} of {count}")
    if options.large:
        for row in rows:
            print(f"{row['clip']:20}{row['variant']:14}" + "".join(
                f"{key} {row[key]:.3f}  " for key in ("psnr", "ssim", "psnr_visible", "psnr_holes")))
    print(f"{len(clips)} clips in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
