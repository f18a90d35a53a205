# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a picture and a clip take to become a scene, and how large the file is: processor time (of this process
and of the child Blender) and wall time, stage by stage.

``python tests/bench/bench_footage_time.py [--size 720x480] [--frames 49] [--parts picture,keep,solve]`` prints;
nothing is asserted.  Needs ``bpy`` and OpenCV.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

AIMS = "aims: a plate of 720×480 ≤ 1.5 s and ≤ 20 MB in the .blend, a clip of 49 frames to a scene ≤ 60 s on two cores"
LENS = 0.9 * 36.0
"""Of the layered clips, mm."""

POLL_S = 0.02


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def processor_s(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


class Clock:
    """Processor and wall time since it was made or last read."""

    def __init__(self):
        self.at = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return processor_s(), time.perf_counter()

    def read(self) -> str:
        before, self.at = self.at, self._now()
        return f"{self.at[0] - before[0]:6.2f} s of processor, {self.at[1] - before[1]:6.2f} s"


def watched(work) -> None:
    """Run ``work()``, which makes a plate; what it says it does is printed with its time when the next begins."""
    from das_blender_addon.staging.beside import beside_blender

    recipe, doing = beside_blender(lambda should_stop: work()), "start"
    clock, whole = Clock(), Clock()
    while True:
        try:
            status = next(recipe)
        except StopIteration as end:
            say(f"    {doing:34} {clock.read()}")
            end.value()
            say(f"    {'the scene itself':34} {clock.read()}")
            break
        time.sleep(POLL_S)
        if status is not None and status.text != doing:
            say(f"    {doing:34} {clock.read()}")
            doing = status.text
    say(f"    {'together':34} {whole.read()}")


def saved(folder: Path) -> None:
    for name, packed in (("plain", False), ("compressed", True)):
        clock, path = Clock(), folder / f"{name}.blend"
        bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=packed)
        say(f"    saved, {name:27} {clock.read()}, {path.stat().st_size / 1e6:.1f} MB")


def picture(size: tuple[int, int], folder: Path) -> None:
    from das_blender_addon.protocol.png import encode_png
    from das_blender_addon.staging.entry import prepare_plate

    clip = layered(size, 1)
    (folder / "picture.png").write_bytes(encode_png(clip.video[0]))
    depth = np.array([6.0, *(4.0 - 0.35 * number for number in range(6))], np.float32)[clip.layers[0]]
    np.save(folder / "depth.npy", depth)
    say(f"\na picture of {size[0]}×{size[1]}")
    known = {"depth": folder / "depth.npy", "depth_kind": "metric", "lens_mm": LENS}
    watched(lambda: prepare_plate(folder / "picture.png", **known))
    others = [scene for scene in bpy.data.scenes if scene.name != "picture"]
    for scene in others:
        bpy.data.scenes.remove(scene)
    saved(folder)


def clip(size: tuple[int, int], count: int, camera: str, folder: Path) -> None:
    from das_blender_addon.child.warm import end_child
    from das_blender_addon.protocol.png import encode_png
    from das_blender_addon.staging.entry import prepare_plate

    (folder / "clip").mkdir(exist_ok=True)
    for number, frame in enumerate(layered(size, count).video):
        (folder / "clip" / f"{number:04d}.png").write_bytes(encode_png(frame))
    say(f"\na clip of {count} frames of {size[0]}×{size[1]}, --clip-camera {camera} --tracks blender")
    known = {"lens_mm": LENS, "camera": camera, "tracks": "blender", "positions": folder / "positions"}
    child = processor_s(resource.RUSAGE_CHILDREN)
    watched(lambda: prepare_plate(folder / "clip", **known))
    end_child()
    say(f"    {'of the child Blender':34} {processor_s(resource.RUSAGE_CHILDREN) - child:6.2f} s of processor")
    say(f"    positions: {sum(file.stat().st_size for file in (folder / 'positions').iterdir()) / 1e6:.0f} MB")


def layered(size: tuple[int, int], count: int):
    from tests.support.layered_clips import layered_clip

    return layered_clip(count, *size)


def main() -> None:
    import addon_utils

    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--size", default="720x480")
    words.add_argument("--frames", type=int, default=49)
    words.add_argument("--parts", default="picture,keep,solve")
    chosen = words.parse_args()
    size = tuple(int(side) for side in chosen.size.split("x"))
    addon_utils.enable("das_blender_addon", default_set=True)
    say(f"Blender {bpy.app.version_string}; load {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores\n{AIMS}")
    for part in chosen.parts.split(","):
        bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
        with tempfile.TemporaryDirectory() as folder:
            if part == "picture":
                picture(size, Path(folder))
            else:
                clip(size, chosen.frames, part, Path(folder))
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module may hang in their own exit code


if __name__ == "__main__":
    main()
