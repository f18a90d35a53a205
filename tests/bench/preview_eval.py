# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the embedded preview model on held-out Blender scenes: tables and contact sheets in `out/preview_eval/`.

Prints, asserts nothing. `--checkpoint FOLDER` measures another one; `--limit N` takes the first N clips only; `--large`
takes a few clips of 360x240 and the whole demo scene at 192x128 instead, into `out/preview_eval_large/`.

`--keys` measures what a user gets of it: the shots of `tests.support.key_shots` (orbits of 40 and 90 degrees, the demo,
things that cross …) composed at 384x256 from one, two and three key pictures, the model's share of a hole 0 (filled
from what is around it alone), 0.25, 0.5 and 1. A cell is PSNR in dB in the holes, of whole frames, and their SSIM.
`--only SHOT …` takes some of the shots. They are rendered once, into `out/bench_key_pictures/`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEY_SHOTS = ("orbit40_a", "orbit40_b", "orbit90_a", "demo", "crossing")


def claims(first: int, last: int) -> tuple[tuple[str, str, str], ...]:
    """(better, worse, number): what the model is meant to be better than, at `first` and at `last` steps."""
    return ((f"model_{first}", f"other_{first}", "psnr"), ("carried", "carried_other", "psnr"),
            (f"model_{first}", "frozen", "psnr"),
            *((f"model_{first}", "carried", key) for key in ("psnr", "psnr_visible", "psnr_holes")),
            (f"model_{first}", "static", "psnr"), (f"model_{first}", "warp", "psnr"),
            *((f"composed_{first}", "composed_carried", key) for key in ("psnr", "ssim", "psnr_holes")),
            (f"model_{last}", f"model_{first}", "psnr"), (f"composed_{last}", f"composed_{first}", "psnr"),
            *((f"composed_{first}", "warp", key) for key in ("psnr", "ssim", "psnr_visible", "psnr_holes")))


def measure_keys(checkpoint: Path, shots: list[str], out: Path) -> int:
    """Render the shots that are missing; write the rows and print the table of `painted_keys`."""
    sys.path.insert(0, str(ROOT))
    from tests.support import painted_keys as keyed

    folder, size = ROOT / "out" / "bench_key_pictures", f"{keyed.SIZE[0]}x{keyed.SIZE[1]}"
    command = [sys.executable, "-m", "tests.support.key_shots", str(folder), "--only", *shots, "--sizes", size]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        return done.returncode
    from das_server.training.evaluate import PreviewRunner

    pipeline, rows = PreviewRunner(checkpoint).pipeline, []
    for shot in shots:
        for keys in keyed.KEYS:
            rows += keyed.measure_shot(folder / shot, pipeline, keys, sheets=out / "sheets")
            print(f"{shot}, key pictures at {keys}", flush=True)
    keyed.write_rows(rows, out)
    print(keyed.table(rows))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "das_server" / "models" / "das_preview")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(KEY_SHOTS))
    options = parser.parse_args()
    if options.keys:
        return measure_keys(options.checkpoint, options.only, options.out or ROOT / "out" / "preview_eval_keys")
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
