# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the embedded preview model on held-out Blender scenes: tables and contact sheets in `out/preview_eval/`.

Prints, asserts nothing. `--checkpoint FOLDER` measures another one; `--limit N` takes the first N clips only.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = (("model_1", "other_1", "psnr"), ("model_1", "static", "psnr"), ("model_4", "model_1", "psnr"),
          ("composed_1", "warp", "psnr"), ("composed_1", "warp", "ssim"), ("composed_1", "warp", "psnr_holes"),
          ("composed_4", "composed_1", "psnr"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "das_server" / "models" / "das_preview")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "preview_eval")
    parser.add_argument("--clips", type=Path, default=ROOT / "out" / "preview_eval" / "clips")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))

    # 1. Clips: rendered once, in a process of their own because Blender ends with it.
    with subprocess.Popen([sys.executable, "-m", "tests.support.held_out_clips", str(options.clips)], cwd=ROOT,
                          stdout=subprocess.DEVNULL) as renderer:
        if renderer.wait():
            return renderer.returncode

    # 2. Every variant of every clip, and its contact sheet.
    from das_server.training import evaluate as evaluation

    clips = evaluation.load_clips(options.clips)[:options.limit]
    columns = ("warp", f"model_{options.steps[0]}", f"composed_{options.steps[0]}", f"other_{options.steps[0]}")

    def sheet(clip, variants):
        shown = tuple(name for name in columns if name in variants)
        evaluation.contact_sheet(clip, variants, options.out / "sheets" / f"{clip.name}.png", shown)
        print(f"{clip.name}: {len(variants)} variants", flush=True)

    started = time.monotonic()
    rows = evaluation.evaluate(options.checkpoint, clips, options.steps, each=sheet)

    # 3. Tables.
    print(evaluation.write_table(rows, options.out))
    for better, worse, key in CLAIMS:
        for motion_only in (False, True):
            mean, error, won, count = evaluation.paired(rows, better, worse, key, motion_only=motion_only)
            which = "with motion" if motion_only else "all"
            print(f"{better} - {worse}, {key}, {which}: {mean:+.3f} ± {error:.3f}, better on {won} of {count}")
    print(f"{len(clips)} clips in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
