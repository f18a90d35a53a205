# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found in a clip without downloaded weights, against a Blender scene of which all is known: the camera by
Blender's own tracker and solver, tracks (Blender's own features; OpenCV's flow where the server's packages are here),
depth by triangulation, and the tracking video that comes of it.

``python tests/bench/bench_footage.py [--size 360x240] [--frames 49] [--clips still,moving]`` prints a table; nothing is
asserted.  Needs ``bpy``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

LENS = 28.0
AIMS = "aims: rotation ≤ 0.3°, path ≤ 1.5 %, depth ≤ 2 %, tracks ≤ 3 px with ≥ 75 % of what is hidden found"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make_scene(name: str, size: tuple[int, int], count: int):
    """A room with a ball before a camera that goes to the right and forward; ``moving``: a box and the ball move."""
    import addon_utils

    from tests.blender.test_clip_truth import add_ball
    from tests.support.filmed import textured
    from tests.support.rooms import add_room
    from tests.support.scenes import key

    addon_utils.enable("das_blender_addon", default_set=True)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = size
    camera = add_room(scene, lens=LENS)
    ball = add_ball(scene, "Ball", 0.7, (-0.9, 4.2, 1.2))
    if name == "moving":
        key(ball, "location", {1: (-0.9, 4.2, 1.2), count: (-0.5, 3.9, 1.5)})
        key(scene.objects["Parcel"], "location", {1: (0.2, 4.0, 0.5), count: (0.9, 4.3, 0.5)})
        key(scene.objects["Parcel"], "rotation_euler", {1: (0.0, 0.0, 0.4), count: (0.0, 0.0, 1.0)})
    key(camera, "location", {1: (-0.4, 0.0, 1.6), count: (0.6, 0.7, 1.8)})
    key(camera, "rotation_euler", {1: (np.pi / 2, 0.0, -0.05), count: (np.pi / 2 - 0.03, 0.02, 0.06)})
    textured(scene)
    return scene


def measured(name: str, size: tuple[int, int], count: int, kinds: list[str]) -> None:
    from das_blender_addon.staging.clip_importing import BLENDER, SOLVE, ClipWish, clip_plate_of
    from tests.support.filmed import film, filmed

    scene = make_scene(name, size, count)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip"
        started = time.perf_counter()
        pictures = filmed(scene, clip, count)
        say(f"\n{name}: {count} frames of {size[0]}×{size[1]}, rendered in {time.perf_counter() - started:.1f} s")
        depth = film(scene, 1).plate.depth[0]
        for words, file in ((BLENDER, ""), ("flow", flow_tracks(pictures, Path(folder)))):
            if words == "flow" and not file:
                say("  tracks by flow: the server's estimators are not here")
                continue
            wish = ClipWish(clip, lens_mm=LENS, camera=SOLVE, tracks=file or BLENDER)
            for kind in kinds:
                started = time.perf_counter()
                if kind == "true":
                    np.save(Path(folder) / "depth.npy", depth)
                    wish = replace(wish, depth=str(Path(folder) / "depth.npy"), depth_kind="metric")
                try:
                    plate, _ = clip_plate_of(wish)
                except Exception as error:
                    say(f"  tracks by {words}, depth {kind}: {error}")
                    continue
                taken = time.perf_counter() - started
                say(f"  tracks by {words}, depth {kind}: {plate.tracks.shape[1]} points, {taken:.1f} s")
                told(scene, plate, depth, count, Path(folder))


def flow_tracks(pictures: np.ndarray, folder: Path) -> str:
    """A file of tracks by the server's own estimator, in this process; "" where its packages are not here."""
    try:
        tracks = importlib.import_module("das_server.estimators.tracks")
        importlib.import_module("cv2")
    except ImportError:
        return ""

    class Asked:
        clip, options = pictures, {"every": 6}

        @staticmethod
        def step(*_) -> None:
            """Nobody watches."""

    started = time.perf_counter()
    found = tracks.Tracks()(Asked())
    say(f"  flow: {found['tracks'].shape[1]} points in {time.perf_counter() - started:.1f} s")
    np.savez(folder / "flow.npz", **found)
    return str(folder / "flow.npz")


def told(scene, plate, depth: np.ndarray, count: int, folder: Path) -> None:
    """The distances between what was found and what is."""
    from das_blender_addon import api
    from das_blender_addon.staging.clip_stage import ClipShot, stage_clip
    from tests.support.filmed import follow

    true, seen, cameras = follow(scene, plate.tracks[0, :, :2], count)
    ours, theirs = (np.linalg.inv(path[0]) @ path for path in (plate.cameras, cameras))
    a, b = theirs[1:, :3, 3].ravel(), ours[1:, :3, 3].ravel()
    scale = float(a @ b / (b @ b))
    turn = np.trace(ours[:, :3, :3].transpose(0, 2, 1) @ theirs[:, :3, :3], axis1=1, axis2=2)
    angle = np.degrees(np.arccos(np.clip((turn - 1.0) / 2.0, -1.0, 1.0)))
    off = np.linalg.norm(theirs[:, :3, 3] - scale * ours[:, :3, 3], axis=1)
    length = np.linalg.norm(np.diff(theirs[:, :3, 3], axis=0), axis=1).sum()
    say(
        f"    camera: rotation {angle.mean():.3f}° (worst {angle.max():.3f}°), path {off.max() / length:.2%}"
    )
    wrong = np.abs(scale * plate.depth[0] / depth - 1.0)
    say(f"    depth of the first picture: {np.median(wrong):.2%} off (median), {wrong.mean():.2%} (mean)")
    known, shown = plate.visible & plate.visible[0], seen & plate.visible[0]
    apart = np.linalg.norm(plate.tracks[..., :2] - true[..., :2], axis=2)
    both = known[-1] & shown[-1]
    hidden = ~shown & plate.visible[0]
    gone = (hidden & ~known).sum() / max(hidden.sum(), 1)
    kept = both.sum() / max(shown[-1].sum(), 1)
    say(
        f"    tracks at {count}: {np.median(apart[-1][both]):.2f} px (median), {apart[-1][both].mean():.2f} (mean), "
        f"{kept:.0%} of what is seen followed, {gone:.0%} of what is hidden found"
    )
    stage = stage_clip(plate, ClipShot("Found", folder / "positions", every=1))
    frames, size = [1, (count + 1) // 2, count], plate.first.size
    exact = api.export_tracking(scene, frames=frames, size=size)
    made = api.export_tracking(stage.scene, frames=frames, size=size)
    for number in (1, 2):
        there, found = exact.first_frame_visible[number], made.first_frame_visible[number]
        error = np.linalg.norm(exact.first_frame_xy[number] - made.first_frame_xy[number], axis=-1)[there & found]
        say(
            f"    video, frame {frames[number]}: {np.median(error):.2f} px (median), {error.mean():.2f} (mean), "
            f"overlap {(there & found).sum() / (there | found).sum():.3f}, {1 - there.mean():.1%} new"
        )
    bpy.data.scenes.remove(stage.scene)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--size", default="360x240")
    words.add_argument("--frames", type=int, default=49)
    words.add_argument("--clips", default="still,moving")
    words.add_argument("--depth", default="triangulated,true")
    chosen = words.parse_args()
    width, height = (int(side) for side in chosen.size.split("x"))
    say(f"Blender {bpy.app.version_string}; load {os.getloadavg()[0]:.1f}\n{AIMS}")
    for name in chosen.clips.split(","):
        measured(name, (width, height), chosen.frames, chosen.depth.split(","))
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module may hang in their own exit code


if __name__ == "__main__":
    main()
