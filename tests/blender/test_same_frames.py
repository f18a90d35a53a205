# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever asks for a shot gets the same frames: Render Animation without a window, the command, the job of a window
(about a copy in a child Blender), and processes that make parts of it at once, on the same files, each with a cache of
its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import commands
from das_blender_addon.ui import session
from tests.blender.test_child_export import armature, bake, cloth, drivers, particles, rigid_bodies, rising
from tests.blender.test_engine import pixels_of
from tests.support.scenes import add_camera, add_grid, key, link
from tests.support.server import ROOT
from tests.support.window import press, shown, tick_to_the_end

LIMIT_S = 240.0
LAST = 9
PARTS = ((1, 3), (4, 6), (7, LAST))
RANGES = (
    *("frame_start", "frame_end", "frame_preview_start", "frame_preview_end"),
    *("use_custom_simulation_range", "simulation_frame_start", "simulation_frame_end"),
)


# ── Six shots ───────────────────────────────────────────────────────────────────────────────────────────────────────


def baked_simulations(scene):
    for build in (rigid_bodies, cloth):
        cache, _ = build(scene)
        bake(scene, cache)
    scene.objects["Sheet"].location = (-2.0, 0.0, 1.0)
    scene.gravity = (9.0, 9.0, 9.0)  # what is simulated once more goes elsewhere


def particles_and_a_simulation_zone(scene):
    """What is not baked: Blender lets the particles stand from the scene's end on and begins the zone at its start."""
    particles(scene, "emitter")
    rising(scene)


def drivers_of_all(scene):
    drivers(scene)


def armature_and_subdivision(scene):
    armature(scene)
    modifier = scene.objects["Cube"].modifiers.new("Smooth", "SUBSURF")
    modifier.levels, modifier.render_levels = 0, 2


def cameras_of_markers(scene):
    add_grid(scene, size=4.0)
    own = scene.camera
    own.data.shift_x = 0.15
    other = add_camera(scene, "Other", location=(6.0, -6.0, 3.0))
    other.data.shift_y = -0.1
    key(other, "location", {1: (6.0, -6.0, 3.0), LAST: (5.0, -7.0, 3.0)})
    scene.timeline_markers.new("A", frame=1).camera = own
    scene.timeline_markers.new("B", frame=5).camera = other


def look_and_transparent_film(scene):
    armature(scene)
    scene.view_settings.view_transform, scene.view_settings.exposure = "AgX", 0.5
    scene.render.film_transparent = True


SHOTS = (
    *(baked_simulations, particles_and_a_simulation_zone, drivers_of_all, armature_and_subdivision, cameras_of_markers),
    look_and_transparent_film,
)
OF_ANY_BLENDER = (drivers_of_all, armature_and_subdivision, cameras_of_markers, look_and_transparent_film)
"""Shots that every version evaluates alike."""
NAMES = [
    pytest.param(build.__name__, marks=[pytest.mark.any_blender] if build in OF_ANY_BLENDER else []) for build in SHOTS
]


@pytest.fixture(scope="module")
def files(addon, tmp_path_factory) -> dict[str, Path]:
    """The six files; servers and caches are named by who asks."""
    made = {}
    for build in SHOTS:
        bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
        scene = bpy.context.scene
        scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 96, 64, 100
        scene.frame_start, scene.frame_end = 1, LAST
        camera = add_camera(scene, location=(0.0, -12.0, 4.0))
        key(camera, "location", {1: (0.0, -12.0, 4.0), LAST: (2.0, -11.0, 5.0)})
        lamp = link(scene, "Lamp", bpy.data.lights.new("Lamp", "SUN"))
        lamp.data.energy, lamp.rotation_euler = 4.0, (0.5, 0.3, 0.0)
        build(scene)
        scene.render.engine = "DAS"
        scene.das.first_frame_samples, scene.das.size = 1, "96x64"
        made[build.__name__] = tmp_path_factory.mktemp("files") / f"{build.__name__}.blend"
        bpy.ops.wm.save_as_mainfile(filepath=str(made[build.__name__]))
    return made


# ── Four ways ───────────────────────────────────────────────────────────────────────────────────────────────────────

PART = """
import sys
import bpy
from pathlib import Path
from tests.blender import test_same_frames as ways
import addon_utils
addon_utils.enable("das_blender_addon", default_set=True)
first, last, out, *files = sys.argv[1:]
for file in files:
    ways.by_engine(Path(file), Path(out) / Path(file).stem, int(first), int(last))
    print(file, flush=True)
sys.stdout.flush()
__import__("os")._exit(0)
"""
"""What ``for F in FILES; do blender -b F -s FIRST -e LAST -a; done`` does, in one process."""


def by_command(file: Path, out: Path) -> None:
    assert commands.main(["render", str(file), "--output", str(out)]) == 0


def by_engine(file: Path, out: Path, first: int = 1, last: int = LAST) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(file))
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end, scene.render.filepath = first, last, f"{out}/"
    before = [getattr(scene, name) for name in RANGES]
    bpy.ops.render.render(animation=True)
    assert [getattr(scene, name) for name in RANGES] == before


def by_window(file: Path, _out: Path) -> None:
    bpy.ops.wm.open_mainfile(filepath=str(file))
    tick_to_the_end(press("take", bpy.context.scene))
    assert shown().job_state == "DONE", shown().job_line


@pytest.fixture(scope="module")
def by_commands(files, server, tmp_path_factory) -> Callable[[str], Path]:
    """Have the command make a shot, once → the folder of all that it made: ``out/<shot>/0001.png`` …, and ``cache``."""
    folder, done = tmp_path_factory.mktemp("command"), set()

    def made(name: str) -> Path:
        if name not in done:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("DAS_SERVER", server.address)
                environment.setenv("DAS_CACHE", str(folder / "cache"))
                by_command(files[name], folder / "out" / name)
            done.add(name)
        return folder

    return made


@pytest.fixture
def asked(server, tmp_path, monkeypatch) -> Path:
    """A folder for another way, with a cache of its own."""
    monkeypatch.setenv("DAS_SERVER", server.address)
    monkeypatch.setenv("DAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(session, "BUDGET_S", 1.0)
    return tmp_path


def takes(folder: Path, name: str, files: dict[str, Path]) -> dict[str, bytes]:
    """Every picture of the shot's takes in the cache of ``folder``."""
    (shot,) = [path for path in (folder / "cache").iterdir() if files[name].stem[:20] in path.name]
    return {str(path.relative_to(shot)): path.read_bytes() for path in shot.glob("takes/**/*.png")}


def assert_same_pixels(one: Path, other: Path) -> None:
    """Frames of nine numbers, which Blender's own PNG files and ours hold in another order of bytes."""
    names = [f"{number:04d}.png" for number in range(1, LAST + 1)]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir()) == names
    frames = [pixels_of(one / name) for name in names]
    for name, frame in zip(names, frames, strict=True):
        np.testing.assert_array_equal(frame, pixels_of(other / name), err_msg=f"{other / name}")
    assert len({frame.tobytes() for frame in frames}) == LAST, "it moves"


@pytest.mark.parametrize("name", NAMES)
def test_render_animation_gives_what_the_command_gives(files, by_commands, asked, name):
    commands_folder = by_commands(name)
    by_engine(files[name], asked / "out")
    assert takes(asked, name, files) == takes(commands_folder, name, files)
    assert_same_pixels(commands_folder / "out" / name, asked / "out")


@pytest.mark.parametrize("name", NAMES)
def test_job_of_a_window_gives_what_the_command_gives(files, by_commands, asked, name):
    commands_folder = by_commands(name)
    by_window(files[name], asked)
    made = takes(asked, name, files)
    assert len(made) == 4 * LAST + 1 and made == takes(commands_folder, name, files)


@pytest.mark.any_blender
def test_parts_that_are_made_at_once_give_what_the_command_gives(files, by_commands, asked, monkeypatch):
    monkeypatch.setenv("DAS_FRAMES", f"1-{LAST}")
    words = [str(asked / "out"), *map(str, files.values())]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PART, str(first), str(last), *words],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for first, last in PARTS
    ]  # fmt: skip
    try:
        for process in running:
            said, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
            process.wait()
    for name in files:
        assert takes(asked, name, files) == takes(by_commands(name), name, files)
        assert_same_pixels(by_commands(name) / "out" / name, asked / "out" / name)
