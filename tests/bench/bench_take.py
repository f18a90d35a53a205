# SPDX-License-Identifier: GPL-3.0-or-later
"""From *Render* to the first progress, the first previews and the last frame: the demo shot, the embedded model,
station by station, and the worker's peak memory.

Run: ``python tests/bench/bench_take.py [WIDTHxHEIGHT …]`` in an environment with Blender as a module.  A real server
renders each size twice with different seeds: the first take also renders the first frame in a child Blender and may
wait for the model; the second has both.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bpy  # noqa: E402

from tests.support.server import running_server  # noqa: E402

SIZES = ("192x128", "360x240")
ALL_CORES = {"DAS_SERVER_THREADS": "0", "OMP_NUM_THREADS": str(os.cpu_count())}
"""A test's server keeps to one thread; this one is as a user's."""


def measure(api, scene, server: str, size: str, seed: int, cache: Path) -> dict[str, float]:
    """Seconds since the call of `render_take` until each thing was seen, the stations' own seconds, and memory."""
    from das_blender_addon.client.take import Preview, Progress

    seen: dict[str, float] = {}
    began = time.perf_counter()

    def on_event(event) -> None:
        elapsed_s = time.perf_counter() - began
        if isinstance(event, Progress):
            seen.setdefault("first progress", elapsed_s)
            if event.stage == "denoising":
                seen.setdefault("first denoising step", elapsed_s)
        elif isinstance(event, Preview):
            seen.setdefault("first preview", elapsed_s)
            if event.step > 0:
                seen.setdefault("first step preview", elapsed_s)

    chosen = None if size == "AUTO" else tuple(int(word) for word in size.split("x"))
    take = api.render_take(
        scene, server=server, seed=seed, folder=cache, on_event=on_event, **({"size": chosen} if chosen else {})
    )
    seen["last frame"] = time.perf_counter() - began
    width, height = take.report["model_size"]
    stations = {f"· {name}": value for name, value in take.timings.items() if isinstance(value, float)}
    job = take.report["job"]
    server_stations = {f"· · {name}": value for name, value in job["timings_s"].items()}
    memory = {"worker's peak, GB": job["peak_memory_bytes"] / 1e9}
    return {"size": f"{width}x{height}", **seen, **stations, **server_stations, **memory}


def main() -> None:
    import addon_utils

    addon_utils.enable("das_blender_addon", default_set=True)
    from das_blender_addon import api
    from scripts import demo_scene

    scene = demo_scene.build_demo_scene()
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(Path(scratch) / "server", environment=ALL_CORES) as server,
    ):
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(scratch) / "demo.blend"))
        print(
            f"49 frames of the demo scene, Blender {bpy.app.version_string}, {os.cpu_count()} processors, das-preview; "
            "seconds since render_take; aims at 192x128: first step preview 6, the job (· · total) 15, 2 GB"
        )
        for size in sys.argv[1:] or SIZES:
            takes = [
                measure(api, scene, server.address, size, seed, Path(scratch) / f"cache {size}") for seed in (1, 2)
            ]
            print(f"\n{takes[0].pop('size')}{'':18}{'first take':>12}{'second take':>13}")
            takes[1].pop("size")
            for name in takes[0]:
                print(f"{name:24}" + "".join(f"{take.get(name, float('nan')):12.2f} " for take in takes))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code while add-ons are registered
