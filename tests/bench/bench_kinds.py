# SPDX-License-Identifier: GPL-3.0-or-later
"""How exact the tracking video is for every kind of content, pixel by pixel against an independent truth.

``python tests/bench/bench_kinds.py [WIDTH HEIGHT]`` prints a table; nothing is asserted.  Needs ``bpy``.  The truth of
meshes is Blender's own rays on evaluated geometry; that of hair, points and cut-outs what Cycles hits at the centres of
pixels.  "vertex colours": the mean error of colours that are computed at vertices and interpolated, as the published
script gives them, without its view transform; what it does not show has none.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.kinds import FRAMES, KINDS, MEAN_LEVELS, OCCLUSION, P99_LEVELS, Measured, changing_topology, measure

SIZE = (720, 480)
WAVE_SIZE, LAST_OF_WAVE = (128, 96), 24


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def empty_scene(size: tuple[int, int]):
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = size
    return scene


def row(measured: Measured, missed: list[str]) -> str:
    def cell(name: str, value, digits: int) -> str:
        words = "–" if value is None else f"{value:.{digits}f}"
        return f"**{words} missed**" if name in missed else words

    occlusion = None if measured.occlusion is None else 100.0 * measured.occlusion
    return " | ".join(
        (
            cell("mean", measured.mean, 2), cell("p99", measured.p99, 2), cell("coverage", measured.coverage, 4),
            cell("occlusion", occlusion, 2), cell("identity", measured.first, 0), cell("", measured.published, 1),
        )
    )  # fmt: skip


def main() -> None:
    size = tuple(int(side) for side in sys.argv[1:3]) or SIZE
    say(f"Blender {bpy.app.version_string}, {size[0]}x{size[1]} pixels, frames {FRAMES}")
    say(f"aims: mean {MEAN_LEVELS}, p99 {P99_LEVELS}, occlusion {100 * OCCLUSION} %, identity 0")
    say("| kind | coverage aim | mean /255 | p99 /255 | coverage IoU | occlusion % | identity | vertex colours /255 |")
    say("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            measured = measure(kind, empty_scene(size), Path(folder))
            say(f"| {kind.name} | {kind.coverage} | {row(measured, measured.missed(kind))} |")
    placed, within = changing_topology(empty_scene(WAVE_SIZE), range(1, LAST_OF_WAVE + 1))
    say(f"remeshed, waving Suzanne, {WAVE_SIZE}, frame {LAST_OF_WAVE}: {100 * placed:.2f} % of its visible points have")
    say(f"a place in the first frame, {100 * within:.2f} % within a pixel of the true one (aim: 95 %)")
    sys.stdout.flush()
    os._exit(0)  # Blender as a module does not end by itself


if __name__ == "__main__":
    main()
