# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of `make demo` that runs inside Blender: the scene, Render Animation with the engine, sequencer, movies.

Run by `scripts/demo.py`, either as ``python demo_in_blender.py …`` with Blender as a module or as
``blender -b --python … -- …``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path

import bpy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # Blender runs a script without its folder

from stations import Station  # noqa: E402

PROMPT = "a striped clay creature bends and waves on a checkered floor, soft daylight"
KEY_FRAMES = (33, 73)
"""Key pictures besides the first frame."""
COLUMN_FRAMES = (10, 25, 49, 64)
"""Moments of the contact sheet, none of them a key picture."""


class Progress(logging.Handler):
    """Draws the station's bar from what the extension logs, and lets no warning go by."""

    def __init__(self, station: Station):
        super().__init__(logging.INFO)
        self._station = station

    def emit(self, record: logging.LogRecord) -> None:
        """A line that starts with a percentage moves the bar."""
        text = record.getMessage()
        found = re.match(r"\s*(\d+)%\s+(.*)", text)
        if found:
            self._station.progress(int(found[1]) / 100, found[2])
        elif record.levelno >= logging.WARNING:
            self._station.say(text)


@contextlib.contextmanager
def watched(station: Station):
    """Show in ``station`` what is logged meanwhile."""
    progress = Progress(station)
    logging.getLogger().addHandler(progress)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(progress)


def terminal_without_blenders_chatter(log: Path):
    """Send everything that Blender itself writes into ``log``; returns the terminal, where Python's errors still go."""
    sys.stdout.flush()
    terminal = os.fdopen(os.dup(1), "w")
    with log.open("wb") as chatter:
        os.dup2(chatter.fileno(), 1)
        os.dup2(chatter.fileno(), 2)
    sys.stderr = terminal
    logging.basicConfig(level=logging.INFO, stream=sys.__stderr__)
    return terminal


def leave_out_dates(scene: bpy.types.Scene) -> None:
    """Keep the date and the render's duration out of Blender's pictures: the same frames, the same bytes."""
    for name in scene.render.bl_rna.properties.keys():
        if name.startswith("use_stamp"):
            setattr(scene.render, name, False)


def render_strip_movie(scene: bpy.types.Scene, target: Path, compat) -> None:
    """Render a scene's strips into an H.264 movie with Blender's own encoder."""
    compat.set_video_output(scene)
    scene.render.filepath = str(target)
    bpy.ops.render.render(animation=True, scene=scene.name)


def tracking_movie(files, target: Path, like: bpy.types.Scene, size, sequencer, compat) -> None:
    """Make a movie of the tracking frames through a scene of strips of its own."""
    scene = bpy.data.scenes.new("Tracking Movie")
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = *size, 100
    scene.render.fps = like.render.fps
    scene.view_settings.view_transform = "Standard"
    scene.frame_start, scene.frame_end = 1, len(files)
    sequencer.add_image_strip(scene, "tracking", files, frame_start=1)
    render_strip_movie(scene, target, compat)
    bpy.data.scenes.remove(scene)


def blender_frames(scene: bpy.types.Scene, folder: Path, station: Station) -> dict[str, str]:
    """Blender's own render (Cycles, half size) at the contact sheet's moments."""
    engine, path = scene.render.engine, scene.render.filepath
    scene.render.engine, scene.render.resolution_percentage = "CYCLES", 50
    files = {}
    for index, number in enumerate(COLUMN_FRAMES):
        station.progress(index / len(COLUMN_FRAMES), f"frame {number}")
        scene.frame_set(number)
        scene.render.filepath = files[str(number)] = str(folder / f"{number:04d}.png")
        bpy.ops.render.render(write_still=True, scene=scene.name)
    scene.render.engine, scene.render.filepath, scene.render.resolution_percentage = engine, path, 100
    return files


def build_file(out: Path, seed: int, size: str, compat) -> bpy.types.Scene:
    """The demo scene with its settings, saved as ``out/demo.blend``, which names no server: it works with anybody's."""
    from scripts import demo_scene

    scene = demo_scene.build_demo_scene()
    scene.render.engine = compat.ENGINE
    scene.das.prompt, scene.das.seed, scene.das.size = PROMPT, seed, size
    scene.das.key_mode = "LIST"
    for frame in KEY_FRAMES:
        scene.das.key_pictures.add().frame = frame
    scene.render.filepath = str(out / "frames" / "####")
    compat.set_image_output(scene, "PNG")
    leave_out_dates(scene)
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=str(out / "demo.blend"))
    return scene


def main() -> None:
    """One function, though long: one demonstration, station after station."""
    parser = argparse.ArgumentParser()
    for name in ("--package", "--out", "--server", "--size"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, required=True)
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    arguments = parser.parse_args(words)
    out = Path(arguments.out)
    terminal = terminal_without_blenders_chatter(out / "blender.log")
    sys.path.insert(0, str(ROOT))
    from scripts import demo_scene

    if "." not in arguments.package:
        import addon_utils  # Blender as a module finds it only once bpy is there

        addon_utils.enable(arguments.package, default_set=True)
    addon = {
        name: importlib.import_module(f"{arguments.package}.{name}")
        for name in ("api", "compat", "scene.sequencer")
    }
    timings = {}

    (out / "frames").mkdir()
    os.environ["DAS_SERVER"] = arguments.server  # not in the file: it is gone when the demo is over
    with Station(f"Blender {bpy.app.version_string}: building the demo scene", terminal):
        scene = build_file(out, arguments.seed, arguments.size, addon["compat"])

    with Station("Render Animation with the engine Diffusion as Shader", terminal) as station, watched(station):
        began = time.monotonic()
        bpy.ops.render.render(animation=True)
        timings["render_animation"] = round(time.monotonic() - began, 2)
        take = addon["api"].render_take(scene)  # in the cache already
        shutil.copyfile(take.first_frame, out / "first_frame.png")

    with Station("a movie of the tracking video", terminal):
        sizes = [int(word) for word in take.report["model_size"]]
        tracking_movie(
            take.tracking_frames, out / "tracking.mp4", scene, sizes, addon["scene.sequencer"], addon["compat"]
        )

    with Station("the strip in the sequencer, and its movie", terminal):
        strip = addon["api"].add_to_sequencer(take, scene)
        render_strip_movie(strip.id_data, out / "demo.mp4", addon["compat"])

    with Station("Blender's own render, to compare", terminal) as station:
        (out / "blender_render").mkdir()
        began = time.monotonic()
        own = blender_frames(scene, out / "blender_render", station)
        timings["blender_own_render_4_frames"] = round(time.monotonic() - began, 2)
        scene.frame_set(scene.frame_start)
        bpy.ops.wm.save_as_mainfile(filepath=str(out / "demo.blend"))

    result = {
        "blender_version": bpy.app.version_string,
        "settings": {"prompt": PROMPT, "seed": arguments.seed, "size": arguments.size},
        "report": take.report,
        "timings_s": {**timings, **take.timings},
        "inputs_sha256": {
            "first_frame": take.report["first_frame_sha256"],
            "tracking_video": take.report["tracking_video_sha256"],
            "scene script": hashlib.sha256(Path(demo_scene.__file__).read_bytes()).hexdigest(),
        },
        "first_frame": str(out / "first_frame.png"),
        "columns": list(COLUMN_FRAMES),
        "keys": {str(state.frame): str(state.path) for state in addon["api"].key_pictures(scene)},
        "tracking": {
            str(number): str(file) for number, file in zip(take.frame_numbers, take.tracking_frames, strict=True)
        },
        "frames": {str(number): str(out / "frames" / f"{number:04d}.png") for number in take.frame_numbers},
        "blender": own,
    }
    (out / "blender.json").write_text(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code while add-ons are registered
