# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine through Blender's own render operators and a real server: the pixels it gives, and that failures give
none.
"""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.protocol.png import decode_png
from tests.support.scenes import add_camera, add_cube, key

LIMIT_S = 60.0


@pytest.fixture
def shot(scene, server, tmp_path):
    """A cube that moves past a camera, nine frames, its first frame from Workbench's cheap kin: Cycles with one
    sample.
    """
    camera = add_camera(scene)
    cube = add_cube(scene, size=2.0)
    key(cube, "location", {1: -1.5, 9: 1.5}, index=0)
    key(cube, "rotation_euler", {1: 0.0, 9: 1.0}, index=2)
    key(camera.data, "lens", {1: 40.0, 9: 60.0})
    scene.render.engine = compat.ENGINE
    scene.das.server = server.address
    scene.das.cache_folder = str(tmp_path / "cache")
    scene.das.first_frame_samples = 1
    scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(scene)
    return scene


def render_animation(scene) -> list[np.ndarray]:
    """Render Animation; the files it wrote, in order."""
    bpy.ops.render.render(animation=True)
    return written(scene)


def render_still(scene, frame: int, path: Path) -> np.ndarray:
    scene.frame_set(frame)
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    return decode_png(path.read_bytes())


def written(scene) -> list[np.ndarray]:
    return [decode_png(path.read_bytes()) for path in sorted(Path(scene.render.filepath).parent.glob("*.png"))]


def jobs_of(server) -> set[str]:
    return {job["job"] for job in server.status()["jobs"]}


def test_animation_gives_the_takes_frames_byte_by_byte(shot, server):
    before = jobs_of(server)
    frames = render_animation(shot)
    take = api.render_take(shot)
    assert take.cached and len(frames) == 9
    for frame, path in zip(frames, take.frames, strict=True):
        np.testing.assert_array_equal(frame, decode_png(path.read_bytes()))
    assert len({frame.tobytes() for frame in frames}) > 1 and all(frame.any() for frame in frames)
    assert len(jobs_of(server) - before) <= 1  # one job for the whole window
