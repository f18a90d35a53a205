# SPDX-License-Identifier: GPL-3.0-or-later
"""Freestyle's lines appear once: Blender draws them over a render's frames; exports, pictures and takes have none."""

from dataclasses import replace

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.jobs import of_scene
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from tests.blender.test_engine import assert_render_fails, render_still
from tests.blender.test_grease_pencil import drawn

pytestmark = pytest.mark.any_blender


@pytest.fixture
def shot(shot_scene, tmp_path):
    """Two frames of the shot of `shot_scene`, with wide lines of pure blue around the cube."""
    shot_scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(shot_scene)
    shot_scene.frame_end = 2
    shot_scene.render.use_freestyle = True
    lines = shot_scene.view_layers[0].freestyle_settings.linesets
    line = lines[0] if len(lines) else lines.new("Lines")
    line.linestyle = line.linestyle or bpy.data.linestyles.new("Lines")
    line.linestyle.color, line.linestyle.thickness = (0.0, 0.0, 1.0), 4.0
    return shot_scene


@pytest.mark.parametrize("in_child", [False, True])
def test_take_of_a_scene_with_lines_has_none(shot, in_child):
    settings = replace(resolve_settings(shot), new_first_frame=True, anew=True)
    take = drive.finish(of_scene.take(shot, settings, in_child=in_child)).take
    shot.render.use_freestyle = False
    plain = drive.finish(of_scene.take(shot, settings, in_child=in_child)).take
    np.testing.assert_array_equal(drawn(take), drawn(plain))


def test_render_draws_the_lines_once_over_the_take(shot):
    frame = render_still(shot, 1).astype(int)
    plain = drawn(api.render_take(shot))[0].astype(int)
    assert api.render_take(shot).cached
    blue = frame[..., 2] - frame[..., 0] > 100
    assert blue.sum() > 50 and not (plain[..., 2] - plain[..., 0] > 100).any()
    far = ~_near(blue, 3)
    assert far.any() and np.abs(frame - plain)[far].max() <= 1


def test_render_that_fails_ends_with_its_reason(shot, monkeypatch):
    monkeypatch.setenv("DAS_SERVER", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    shot.das.seed += 7
    assert_render_fails(shot, "No server answers")


def _near(mask: np.ndarray, reach: int) -> np.ndarray:
    """``mask`` [H,W] grown by ``reach`` pixels."""
    grown = mask.copy()
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            grown |= np.roll(mask, (down, right), (0, 1))
    return grown
