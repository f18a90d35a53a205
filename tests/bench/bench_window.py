# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job of a window costs: the copy on the main thread, the child Blender, and geometry that is spooled to disk.

``python tests/bench/bench_window.py [--parts copy,press,spool]`` prints tables; nothing is asserted.  Needs ``bpy``.
Without a window there is nobody to press a button: the same recipe is driven here, with the same child.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

COPY_MB = (10, 200, 1000)
SPOOL_FRAMES, SPOOL_CELLS = 200, 1000
PARTS = ("copy", "press", "spool")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def empty_scene():
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


def resident_mb(pid: int | str = "self") -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Peak:
    """The most memory that this process and a child held while the block ran, MB."""

    def __init__(self, child_pid):
        self._child_pid, self.own, self.child = child_pid, 0.0, 0.0
        self._ended = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()

    def _watch(self):
        while not self._ended.wait(0.02):
            self.own = max(self.own, resident_mb())
            pid = self._child_pid()
            self.child = max(self.child, resident_mb(pid) if pid else 0.0)


def measure_copy() -> None:
    """Seconds that the main thread stands still while the copy is written."""
    from das_blender_addon.child.copy import write_copy
    from tests.support.scenes import add_camera

    say("\nThe copy of the file, on the main thread")
    say(f"{'file':>10}{'copy':>10}{'first':>10}{'again':>10}{'rate':>12}")
    for megabytes in COPY_MB:
        scene = empty_scene()
        add_camera(scene)
        cells = int((megabytes * 1e6 / 101) ** 0.5)  # a vertex with its edges and faces takes some 101 bytes in a file
        bpy.ops.mesh.primitive_grid_add(x_subdivisions=cells, y_subdivisions=cells)
        with tempfile.TemporaryDirectory() as folder:
            bpy.ops.wm.save_as_mainfile(filepath=str(Path(folder, "heavy.blend")), compress=False)
            seconds, size = [], 0
            for _ in range(2):
                began = time.perf_counter()
                copy = write_copy(scene, scene.view_layers[0].name)
                seconds.append(time.perf_counter() - began)
                size = copy.file.stat().st_size
                copy.close()
        say(
            f"{megabytes:>7} MB{size / 1e6:>7.0f} MB{seconds[0]:>8.2f} s{seconds[1]:>8.2f} s"
            f"{size / 1e6 / seconds[1]:>7.0f} MB/s"
        )


def measure_press() -> None:
    """From the press of Preview Tracking to the picture, for the demo scene at the preview model's size."""
    from das_blender_addon.child import warm
    from das_blender_addon.jobs import of_scene
    from das_blender_addon.shot.settings import resolve_settings
    from das_blender_addon.take import drive
    from scripts.demo_scene import build_demo_scene

    scene = build_demo_scene()
    scene.render.resolution_x, scene.render.resolution_y = 192, 128
    say(f"\nPreview Tracking of the demo scene, {scene.frame_end} frames at 192x128, press to picture")
    with tempfile.TemporaryDirectory() as cache:
        scene.das.cache_folder = cache
        warm.end_child()
        for name in ("first (the child starts)", "second", "third"):
            began = time.perf_counter()
            shown = []
            note = lambda _, shown=shown: shown.append(time.perf_counter())  # noqa: E731
            recipe = of_scene.tracking_preview(scene, resolve_settings(scene), in_child=True, on_files=note)
            pressed = time.perf_counter() - began
            drive.finish(recipe)
            whole = time.perf_counter() - began
            say(f"{name:<28}{shown[0] - began:>7.2f} s   of which on the main thread {pressed:.2f} s; "
                f"with the report of the shot {whole:.2f} s")


def measure_spool() -> None:
    """A million vertices that all move, 200 frames: memory of both processes and disk."""
    from das_blender_addon.child import warm
    from das_blender_addon.child.copy import write_copy
    from das_blender_addon.jobs.sources import CopySource
    from das_blender_addon.take import drive
    from das_blender_addon.tracking.spool import VERTICES
    from tests.support.scenes import add_camera, key

    scene = empty_scene()
    add_camera(scene)
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=SPOOL_CELLS - 1, y_subdivisions=SPOOL_CELLS - 1)
    key(bpy.context.object, "location", {1: (0, 0, 0), SPOOL_FRAMES: (5, 0, 0)})
    copy = write_copy(scene, scene.view_layers[0].name)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)  # this process holds no scene of that size
    source = CopySource(copy)
    began = time.perf_counter()
    with Peak(lambda: source._open._child and source._open._child.process.pid) as peak:
        geometry = drive.finish(source.export(tuple(range(1, SPOOL_FRAMES + 1)), (192, 128), lambda *_: None))
        exported = time.perf_counter() - began
        for index in np.random.default_rng(0).permutation(SPOOL_FRAMES)[:20]:
            geometry.vertices[int(index)]
    disk = (copy.folder / "geometry" / VERTICES).stat().st_size
    say(f"\nSpool: {geometry.vertices.shape[1]:,} vertices, {SPOOL_FRAMES} frames, every one moving")
    say(f"exported in {exported:.1f} s ({1e3 * exported / SPOOL_FRAMES:.0f} ms a frame), {disk / 1e9:.2f} GB on disk")
    say(f"most memory: this process {peak.own:.0f} MB, the child {peak.child:.0f} MB")
    source.close()
    warm.end_child()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parts = parser.parse_args().parts.split(",")
    import addon_utils  # found once bpy is there

    addon_utils.enable("das_blender_addon", default_set=True)
    for part, measure in zip(PARTS, (measure_copy, measure_press, measure_spool), strict=True):
        if part in parts:
            measure()
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code


if __name__ == "__main__":
    main()
