# SPDX-License-Identifier: GPL-3.0-or-later
"""How well points are followed over a mesh that is made anew in every frame: a remeshed, waving Suzanne.

``python tests/bench/bench_topology.py`` prints a table; nothing is asserted.  Needs ``bpy``.  The truth is the wave
itself, on the mesh before it is remeshed.  "alone" leaves out the guide (the same object without its Remesh), as for
metaballs and fluids, which have none.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.scene import matching
from tests.support.waves import SIZE, exported, kept_points, waving_suzanne

FRAMES = range(1, 25)
match = matching.match


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def unguided(new, old, **options):
    return match(new, old, **(options | {"guide": None}))


def measure(voxel_size: float, along_normal: bool, has_guide: bool) -> None:
    from das_blender_addon.scene import slots

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    suzanne = waving_suzanne(bpy.context.scene, voxel_size=voxel_size, along_normal=along_normal)
    slots.match = match if has_guide else unguided
    began = time.thread_time()
    geometry = exported(bpy.context.scene, FRAMES)
    took = (time.thread_time() - began) / len(FRAMES)
    suzanne.modifiers.remove(suzanne.modifiers["Remesh"])
    kept = kept_points(geometry, exported(bpy.context.scene, FRAMES))
    words = ("normal" if along_normal else "up", "guide" if has_guide else "alone")
    numbers = (kept.placed, kept.within_a_pixel, np.median(kept.errors), np.percentile(kept.errors, 95), kept.moved)
    say(f"{voxel_size:<8}{words[0]:<9}{words[1]:<8}" + "".join(f"{value:>12.3f}" for value in numbers)
        + f"{len(geometry.triangles) // len(FRAMES):>12,}{1e3 * took:>12.0f}")


def main() -> None:
    say(f"Blender {bpy.app.version_string}, {SIZE[0]}x{SIZE[1]} pixels, frame {FRAMES[-1]} against frame 1")
    words = ("placed", "within 1 px", "median px", "95 % px", "moved px", "triangles", "ms a frame")
    say(f"{'voxel':<8}{'wave':<9}{'':<8}" + "".join(f"{word:>12}" for word in words))
    for voxel_size, along_normal, has_guide in (
        (0.05, False, True), (0.05, True, True), (0.03, False, True), (0.03, True, True),
        (0.05, False, False), (0.05, True, False),
    ):  # fmt: skip
        measure(voxel_size, along_normal, has_guide)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # bpy up to 4.5 crashes or hangs in its own exit code
