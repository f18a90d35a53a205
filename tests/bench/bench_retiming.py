# SPDX-License-Identifier: GPL-3.0-or-later
"""What is lost where a model makes only every third frame: those between, composed from their neighbours, against the
frames of all made.

``python tests/bench/bench_retiming.py`` renders ten frames of shots of `tests.support.key_shots` once, into
``out/bench_retiming/``: Cycles stands in for a model that makes every frame well.  ``--preview``: das-preview makes
every frame of a shot, and every third one of the same.  Printed are PSNR, SSIM and how
sharp the frames between are beside those of all made.  Nothing is asserted.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from das_blender_addon.protocol.png import decode_png
from das_blender_addon.shot.plan import plan
from das_blender_addon.shot.tracked import part_of
from das_blender_addon.take.detail import Detail, KeyPicture
from tests.bench.bench_key_pictures import psnr, read, ssim
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.key_shots import SHOTS, load_geometry

ROOT = Path(__file__).resolve().parents[2]
SIZE, FRAMES = (384, 256), tuple(range(19, 29))
"""Around the middle of each shot, where everything is on its way."""
RATES = (2, 3, 4)
OUT = ROOT / "out" / "bench_retiming"


def sharpness(picture: np.ndarray) -> float:
    """Mean square of the second differences: what is lost first where a picture is resampled."""
    values = picture.astype(np.float64)
    return float(sum((np.diff(values, 2, axis=axis) ** 2).mean() for axis in (0, 1)))


def measure(name: str, every: int) -> None:
    """Print one line: frames between, of every ``every``-th frame of Cycles."""
    frames = {index: read(OUT / name, SIZE, frame) for index, frame in enumerate(FRAMES)}
    geometry = part_of(load_geometry(OUT / name, SIZE), [frame - 1 for frame in FRAMES])
    capabilities = capabilities_of(model_capability(num_frames=[49], sizes=[list(SIZE)], inputs=[]))
    planned = plan(FRAMES, SIZE, (1.0, 1.0), capabilities, model_frames_every=every)
    found = {}
    start = time.process_time()
    Detail(geometry, planned, [KeyPicture(0, frames[0], b"")]).between(frames.__getitem__, found.__setitem__)
    spent = (time.process_time() - start) / len(found)
    print_line(f"{name:14} every {every}", found, frames, f"{spent:.2f} s a frame")


def print_line(name: str, found: dict[int, np.ndarray], frames: dict[int, np.ndarray], words: str) -> None:
    rows = [(psnr(found[index], frames[index]), ssim(found[index], frames[index]),
             sharpness(found[index]) / sharpness(frames[index])) for index in sorted(found)]  # fmt: skip
    mean = np.mean(rows, axis=0)
    print(
        f"{name}: {mean[0]:6.2f} dB (worst {min(row[0] for row in rows):.2f})  SSIM {mean[1]:.4f}  "
        f"sharpness {mean[2]:.2f} ×  {len(rows)} frames  {words}",
        flush=True,
    )


def measure_preview() -> None:
    """The demo with das-preview, without the key pictures' detail: frames between against those of all made, of one and
    the same take and of two, of which no frame is the same.
    """
    import bpy

    print(f"Blender {bpy.app.version_string}")
    import addon_utils  # there once bpy is

    from tests.support.server import running_server

    addon_utils.enable("das_blender_addon", default_set=True)
    from das_blender_addon import api
    from scripts.demo_scene import build_demo_scene

    with tempfile.TemporaryDirectory() as scratch, running_server(Path(scratch) / "server") as server:
        scene = build_demo_scene()
        scene.frame_end = 25
        scene.render.resolution_x, scene.render.resolution_y = 192, 128
        bpy.ops.wm.save_as_mainfile(filepath=str(Path(scratch) / "demo.blend"))
        chosen = {"server": server.address, "folder": Path(scratch) / "cache", "compose": False, "seed": 1}
        whole, third = (
            api.render_take(scene, key_pictures=(1, 13, 25), model_frames_every=every, **chosen) for every in (1, 3)
        )
        frames, others = (
            dict(enumerate(decode_png(path.read_bytes()) for path in take.model_frames)) for take in (whole, third)
        )
        capabilities = api.server_capabilities(server.address)
        planned = api.plan_shot(scene, capabilities, keep_detail=False, model_frames_every=3, keys=(13, 25))
        pictures = [KeyPicture(key, frames[key], b"") for key in planned.keys]
        found = {}
        Detail(api.export_shot(scene, planned).geometry, planned, pictures).between(
            frames.__getitem__, found.__setitem__
        )
        print_line("das-preview, demo, from every 3rd of the frames of all made", found, frames, "")
        between = {index: others[index] for index in planned.between}
        print_line("das-preview, demo, two takes, the frames between", between, frames, "")
        both = {index: others[index] for index in planned.made[1:]}
        print_line("das-preview, demo, two takes, the frames that both made", both, frames,
                   f"jobs {third.timings['job']:.1f} s, of all {whole.timings['job']:.1f} s")  # fmt: skip
        scene.render.resolution_x, scene.render.resolution_y, chosen["compose"] = *SIZE, True
        for keys, words in (((1, 13, 25), "as users get it"), ((1,), "the same from the first frame alone")):
            frames, others = (
                dict(enumerate(decode_png(path.read_bytes()) for path in take.frames))
                for take in [
                    api.render_take(scene, key_pictures=keys, model_frames_every=every, **chosen) for every in (1, 3)
                ]
            )
            between = {index: others[index] for index in range(25) if index % 3}
            print_line(f"das-preview, demo, {words}, the frames between", between, frames, "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(SHOTS), default=list(SHOTS))
    parser.add_argument("--no-render", action="store_true")
    parser.add_argument("--preview", action="store_true", help="with das-preview, too")
    options = parser.parse_args()
    if not options.no_render:
        command = [sys.executable, "-m", "tests.support.key_shots", str(OUT), "--only", *options.only]
        command += ["--sizes", f"{SIZE[0]}x{SIZE[1]}", "--frames", *map(str, FRAMES)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return done.returncode
    for name in options.only:
        for every in RATES:
            measure(name, every)
    if options.preview:
        measure_preview()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Blender as a module crashes or hangs in its own exit code while add-ons are registered
