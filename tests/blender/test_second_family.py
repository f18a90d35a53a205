# SPDX-License-Identifier: GPL-3.0-or-later
"""A take of a model that paints holes, from the scene to frames: through a real server with a tiny random one."""

import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.protocol.png import decode_png
from tests.support.server import running_painter

SIZE = (192, 128)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    with running_painter(tmp_path_factory.mktemp("painter")) as server:
        yield server


@pytest.mark.any_blender
def test_take_is_composed_from_key_pictures_and_what_the_model_makes_of_their_holes(shot_scene, painter, tmp_path):
    scene = shot_scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.render.fps = 16
    scene.das.model, scene.das.size, scene.das.steps = "wan-vace-1.3b", "192x128", 2
    options = {"server": painter.address, "folder": tmp_path, "prompt": "a cube", "key_pictures": [6]}
    take = api.render_take(scene, **options)
    assert take.frame_numbers == tuple(range(1, 10)) and not take.cached
    frames, made = ([decode_png(path.read_bytes()) for path in paths] for paths in (take.frames, take.model_frames))
    assert [frame.shape for frame in frames] == [(SIZE[1], SIZE[0], 3)] * 9
    np.testing.assert_array_equal(frames[0], decode_png(take.first_frame.read_bytes()))
    assert all((frame != model).any() for frame, model in zip(frames, made, strict=True))
    report = take.report["job"]["pipeline"]
    assert 0.0 < report["hole_share"] < 0.5 and report["num_references"] == 0 and report["num_frames"] == 9
    assert api.render_take(scene, **options).cached
    other = api.render_take(scene, **options, seed=8)
    changed = [(frame != decode_png(path.read_bytes())).any(axis=2).mean() for frame, path in zip(
        frames, other.frames, strict=True)]  # fmt: skip
    assert changed[0] == changed[5] == 0.0 and 0.0 < changed[8] < 0.5
