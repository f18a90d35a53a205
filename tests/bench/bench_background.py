# SPDX-License-Identifier: GPL-3.0-or-later
"""Black or sky: outdoor shots composed with das-preview from one, two and three key pictures, their tracking videos
with either background, against Cycles.

``python tests/bench/bench_background.py`` renders the outdoor shots of `tests.support.key_shots` once, into
``out/bench_key_pictures/``, and prints a table: the share of the pictures that no key shows, then for each background
PSNR there, of whole frames, and SSIM, with a quarter of each hole painted by the model, as in takes, and all of it.
Nothing is asserted.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SHOTS = ("outdoor_turn", "outdoor_walk")


def main() -> int:
    from tests.support import painted_keys as keyed

    folder, size = ROOT / "out" / "bench_key_pictures", f"{keyed.SIZE[0]}x{keyed.SIZE[1]}"
    command = [sys.executable, "-m", "tests.support.key_shots", str(folder), "--only", *SHOTS, "--sizes", size]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        return done.returncode
    from das_blender_addon.shot.plan import BLACK, SKY
    from das_blender_addon.take.detail import PAINTED_SHARE
    from das_server.training.evaluate import PreviewRunner

    pipeline = PreviewRunner(ROOT / "das_server" / "models" / "das_preview").pipeline
    shares = (PAINTED_SHARE, 1.0)
    heads = (f"{one}, {share:g}" for one in (BLACK, SKY) for share in shares)
    print("| shot | keys | unseen | " + " | ".join(heads) + " |")
    print("|---|---|---|" + "---|" * 2 * len(shares))
    for shot in SHOTS:
        for keys in keyed.KEYS:
            cells = []
            for background in (BLACK, SKY):
                rows = list(keyed.measure_shot(folder / shot, pipeline, keys, shares, background=background))
                cells += [keyed.cell([row for row in rows if row.share == share]) for share in shares]
            print(f"| {shot} | {len(keys)} | {keyed.mean_holes(rows):.3f} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
