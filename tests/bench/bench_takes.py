# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panels of takes cost the main thread with many takes listed.

``python tests/bench/bench_takes.py [--takes 200] [--frames 200]`` prints a table; nothing is asserted.  Needs ``bpy``:
without a window the panels draw into a layout that draws nothing.  What only a window does (icons of thumbnails,
textures) is measured as far as its files.  Milliseconds of this thread's processor time, and of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

MOST_MS = 50.0
SIZE, FULL_HD = (1280, 720), (1920, 1080)
REPEATS = 5


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_takes(folder: Path, count: int, frames: int) -> None:
    """``count`` takes of as many ``frames``, whose pictures are links to one; the last one was measured."""
    from das_blender_addon.protocol.png import encode_png
    from das_blender_addon.take.adherence import KIND
    from das_blender_addon.take.adherence import LAYOUT as REPORT
    from tests.support.takes import written_take

    picture = folder / "picture.png"
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(1).integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
    picture.write_bytes(encode_png(grey.repeat(8, 0).repeat(8, 1)))
    for number in range(count):
        prompt = f"vase {number}"
        take = written_take(folder, str(number), frames=(1,), seed=number, made=1000.0 + number, prompt=prompt)
        file = take.folder / "take.json"
        said = json.loads(file.read_text())
        said["frame_numbers"] = said["report"]["frame_numbers"] = list(range(1, frames + 1))
        digest = next(iter(said["files"].values()))
        said["files"] = {
            f"{part}/{place + 1:04d}.png": digest
            for part in ("frames", "model", "tracking") for place in range(frames)
        }  # fmt: skip
        middle = take.folder / "frames" / f"{frames // 2 + 1:04d}.png"
        middle.unlink(missing_ok=True)
        os.link(picture, middle)
        file.write_text(json.dumps(said, indent=1))
        os.utime(file, (1000.0 + number,) * 2)
    figures = {"mean_px": 0.5, "p95_px": 1.5, "off": 0.05, "lost": 0.01, "counted": 0.9, "colour": 3.0}
    one = {**figures, "flicker": 2.0, "flicker_expected": 1.5}
    objects = {f"Object {place}": {"mean_px": 0.5, "colour": 3.0, "points": 900} for place in range(40)}
    report = {
        "layout": REPORT, "take": take.key, "height": SIZE[1], "limit_px": 7.2, **one, "seen": 0.9, "composed": 0.0,
        "frames": [{"frame": frame + 1, **one, "objects": objects} for frame in range(frames)],
        "objects": [{"name": name, **figures} for name in objects], "windows": [], "seams": [],
    }  # fmt: skip
    (take.folder / KIND).mkdir()
    (take.folder / KIND / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True))


def measured(what: str, step, repeats: int = REPEATS) -> None:
    """Print how long ``step`` takes, the first time and the longest of the others."""
    own, clock = [], []
    for _ in range(repeats):
        began = time.thread_time(), time.perf_counter()
        step()
        own.append(1e3 * (time.thread_time() - began[0]))
        clock.append(1e3 * (time.perf_counter() - began[1]))
    over = "   over" if max(own) > MOST_MS and "a thread" not in what else ""
    times = "".join(f"{value:>9.1f}" for value in (own[0], max(own[1:], default=0.0), max(clock)))
    say(f"{what:<52}{times}{over}")


class Nothing:
    """A layout that takes every call and draws nothing."""

    def __getattr__(self, _name):
        return lambda *_, **__: Nothing()


def measure(count: int, frames: int) -> None:
    """The table."""
    from das_blender_addon.protocol.png import decode_png, encode_png
    from das_blender_addon.shot.shot_folder import ensure_shot_id, shot_folder
    from das_blender_addon.take.comparing import compared, contact_sheet
    from das_blender_addon.take.library import takes_of
    from das_blender_addon.ui import adherence, drawing, job_overlay, takes
    from das_blender_addon.ui.frame_reader import FrameReader
    from das_blender_addon.ui.take_shelf import bring_list, chosen_take, shelf

    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene, manager = bpy.context.scene, bpy.context.window_manager
    scene.render.engine = "DAS"
    ensure_shot_id(scene)
    with tempfile.TemporaryDirectory() as cache:
        scene.das.cache_folder = cache
        folder = shot_folder(scene, cache)
        write_takes(folder, count, frames)

        def draw(panel) -> None:
            panel.draw(SimpleNamespace(layout=Nothing()), bpy.context)

        def draw_rows() -> None:
            row = takes.DAS_UL_takes
            for item in manager.das_takes[: takes.ROWS * 3]:
                row.draw_item(SimpleNamespace(), bpy.context, Nothing(), None, item, 0, None, "", 0)

        def thumbnails() -> None:
            for entry in shelf.entries[: takes.ROWS * 3]:
                drawing.thumbnail(entry.thumbnail)

        def cold() -> None:
            manager.das_takes.clear()
            bring_list(manager, shelf.entries)

        say(f"{count} takes of {frames} frames; load {os.getloadavg()[0]:.1f}")
        say(f"{'step (ms)':<52}{'first':>9}{'later':>9}{'clock':>9}")
        measured("a thread: all takes read from their files", lambda: takes_of(folder), 2)
        shelf.forget()
        chosen_take(bpy.context)  # without a window the thread is waited for here
        measured("list refreshed, nothing new", lambda: bring_list(manager, shelf.entries))
        measured("list refreshed, all lines new", cold)
        measured("which take is chosen", lambda: chosen_take(bpy.context))
        measured("panel Takes", lambda: draw(takes.DAS_PT_takes))
        measured(f"{takes.ROWS * 3} rows of the list", draw_rows)
        measured(f"thumbnails of {takes.ROWS * 3} rows asked for", thumbnails)
        manager.das_take_index = 0
        measured("panel Does It Follow, take of 40 objects", lambda: draw(adherence.DAS_PT_adherence))
        measured("menu of Compare", lambda: takes._other_takes(None, bpy.context))
        hd = Path(cache) / "hd.png"
        grey = np.random.default_rng(1).integers(0, 255, (FULL_HD[1] // 8, FULL_HD[0] // 8, 3), dtype=np.uint8)
        hd.write_bytes(encode_png(np.ascontiguousarray(grey.repeat(8, 0).repeat(8, 1))))
        measured("a thread: a frame of 1920×1080 read for Show Take", lambda: job_overlay.pixels_of(hd))
        pair = [decode_png(hd.read_bytes())] * 2
        measured("a thread: two frames of 1920×1080 compared", lambda: encode_png(compared(*pair, "side")), 2)
        measured("a thread: contact sheet of a dozen of them", lambda: contact_sheet([hd] * 12), 1)
        reader, name = FrameReader(), (hd, 0)
        measured("a frame of 1920×1080 asked for, until it is there", lambda: reader.take(name), 50)
        measured("question of Clean Up", lambda: takes._disposable(shelf.look(scene)))
        measured("Clean Up of all of them", lambda: bpy.ops.das.clean_up_takes(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takes", type=int, default=200)
    parser.add_argument("--frames", type=int, default=200)
    chosen = parser.parse_args()
    import addon_utils  # found once bpy is there

    addon_utils.enable("das_blender_addon", default_set=True)
    measure(chosen.takes, chosen.frames)
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code


if __name__ == "__main__":
    main()
