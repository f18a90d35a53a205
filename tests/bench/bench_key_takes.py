# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes from key pictures through the whole product: the time of a short one, station by station; a long one at
1280×720, its time a frame and its memory; and the seams between its windows.  ``--large``: short takes at 1920×1080 and
3840×2160 instead.

Run: ``python tests/bench/bench_key_takes.py [--frames N] [--large]`` in an environment with Blender as a module.  A
real server with das-preview renders; key pictures are rendered before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bpy  # noqa: E402
import numpy as np  # noqa: E402

from tests.support.server import running_server  # noqa: E402

ALL_CORES = {"DAS_SERVER_THREADS": "0", "OMP_NUM_THREADS": str(os.cpu_count())}
"""A test's server keeps to one thread; this one is as a user's."""


class Memory:
    """The largest resident size of this process while it is open, bytes."""

    def __enter__(self):
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE"))


def timed_take(api, scene, server: str, cache: Path, **settings):
    """(take, seconds until the first preview and the end, peak memory in bytes)."""
    from das_blender_addon.client.take import Preview

    seen: dict[str, float] = {}
    began = time.perf_counter()

    def on_event(event) -> None:
        if isinstance(event, Preview):
            seen.setdefault("first preview", time.perf_counter() - began)

    with Memory() as memory:
        take = api.render_take(scene, server=server, folder=cache, on_event=on_event, **settings)
    seen["last frame"] = time.perf_counter() - began
    return take, seen, memory.peak


def print_take(name: str, take, seen: dict[str, float], memory: int) -> None:
    """One block of numbers."""
    print(f"\n{name}: {seen['last frame']:.1f} s, without its pictures {cost(take, seen):.3f} s a frame")
    print(f"  first preview after {seen.get('first preview', float('nan')):.1f} s; this process {memory / 1e9:.2f} GB")
    stations = ", ".join(f"{station} {seconds:.1f}" for station, seconds in take.timings.items() if seconds >= 0.05)
    print(f"  {stations}; worker {take.report['job']['peak_memory_bytes'] / 1e9:.2f} GB", flush=True)


def cost(take, seen: dict[str, float]) -> float:
    """Seconds a frame, rendering its key pictures not counted."""
    return (seen["last frame"] - take.timings["first_frame"]) / len(take.frames)


def print_seams(take) -> None:
    """Frame-to-frame differences where two windows meet, beside those elsewhere."""
    from das_blender_addon.protocol.png import decode_png

    frames = [decode_png(path.read_bytes()).astype(np.float32) for path in take.frames]
    steps = np.array([np.abs(after - before).mean() for before, after in zip(frames, frames[1:], strict=False)])
    joined = np.zeros(len(steps), bool)
    ends = [(window[0], window[1]) for window in windows_of(take)]
    for (_, stop), (start, _) in zip(ends, ends[1:], strict=False):
        joined[max(0, start - take.frame_numbers[0] - 1) : stop - take.frame_numbers[0] + 1] = True
    ratio = float(np.median(steps[joined]) / np.median(steps[~joined]))
    worst = float(steps[joined].max() / np.median(steps[~joined]))
    print(f"  seams: {ratio:.2f} × the median difference elsewhere, the worst {worst:.2f} × (aim 1.2)", flush=True)


def windows_of(take) -> list[list[int]]:
    """First and last Blender frame of each window."""
    import json

    return [window["frames"] for window in json.loads((take.folder / "take.json").read_text())["windows"]]


def demo_takes(api, server: str, scratch: Path, *, large: bool) -> None:
    """The demo at its own size, or with ``large`` the first frames of it at larger ones; each second take counts."""
    from scripts import demo_scene

    scene = demo_scene.build_demo_scene()
    bpy.ops.wm.save_as_mainfile(filepath=str(scratch / "demo.blend"))
    sizes = ((1920, 1080, 13), (3840, 2160, 5)) if large else ((720, 480, 49),)
    for width, height, count in sizes:
        scene.render.resolution_x, scene.render.resolution_y, scene.frame_end = width, height, count
        if large:
            scene.das.first_frame_samples = 1
        for seed in (1, 2):
            keys = (1, count // 2 + 1, count)
            measured = timed_take(api, scene, server, scratch / "cache", seed=seed, key_pictures=keys)
        aims = "" if large else " (aims 12 s and 2 s)"
        print_take(f"demo, {count} frames, {width}×{height}, 3 key pictures there{aims}", *measured)


def long_takes(api, server: str, scratch: Path, num_frames: int) -> None:
    """Orbits: one window, ``num_frames`` at the same size, and a chain of windows from the first frame alone."""
    import addon_utils

    from tests.support.key_shots import build_orbit

    one = 1.0
    for width, count, keys in ((1280, 49, (1, 25, 49)), (1280, num_frames, None), (384, 240, ())):
        scene = build_orbit(1, 40.0, count)
        addon_utils.enable("das_blender_addon", default_set=True)  # that began with factory settings
        scene.render.resolution_x, scene.render.resolution_y = width, width * 9 // 16
        scene.frame_start, scene.frame_end = 1, count
        scene.render.engine, scene.das.first_frame_samples = "DAS", 4
        bpy.ops.wm.save_as_mainfile(filepath=str(scratch / f"orbit_{width}_{count}.blend"))
        chosen = {"key_pictures": "auto" if keys is None else keys}
        measured = timed_take(api, scene, server, scratch / "cache", seed=1, **chosen)
        name = f"orbit, {count} frames, {width}×{width * 9 // 16}, {len(measured[0].report['key_pictures'])} keys"
        print_take(name, *measured)
        if count > 49:
            print_seams(measured[0])
        elif width == 1280:
            one = cost(measured[0], measured[1])
        if width == 1280 and count > 49:
            print(f"  a frame costs {cost(measured[0], measured[1]) / one:.2f} × that of one window (aim 1.25)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=250, help="length of the long shot")
    parser.add_argument("--only-long", action="store_true", help="leave out the demo")
    parser.add_argument("--large", action="store_true", help="the demo at 1920×1080 and 3840×2160, no long shots")
    options = parser.parse_args()
    import addon_utils

    addon_utils.enable("das_blender_addon", default_set=True)
    from das_blender_addon import api

    print(f"Blender {bpy.app.version_string}, {os.cpu_count()} processors, das-preview")
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch) / "server", environment=ALL_CORES) as server,
    ):
        if options.large or not options.only_long:
            demo_takes(api, server.address, Path(scratch), large=options.large)
        if not options.large:
            long_takes(api, server.address, Path(scratch), options.frames)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code while add-ons are registered
