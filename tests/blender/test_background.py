# SPDX-License-Identifier: GPL-3.0-or-later
"""What is behind everything: black, or a sky that is carried along; chosen in the scene, by a farm and by a script."""

from dataclasses import replace

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.command_line.arguments import overrides, parser
from das_blender_addon.errors import SettingsError
from das_blender_addon.jobs import of_scene, unchanged
from das_blender_addon.jobs.sources import facts_of
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive, recipes
from das_blender_addon.ui import panels
from tests.blender.test_panels import words
from tests.support.capabilities import capabilities_of, model_capability

pytestmark = pytest.mark.any_blender
FULL = capabilities_of(model_capability(inputs=[]))
PREVIEW = capabilities_of(model_capability(inputs=["carried_video"]))


def has_sky(scene, capabilities) -> bool:
    """Whether a take of ``scene`` tracks the sky; what the panel says agrees."""
    settings = resolve_settings(scene)
    plan = recipes.plan_shot(facts_of(scene, settings), settings, capabilities)
    assert of_scene.plan_shot(scene, settings, capabilities).sky == plan.sky
    return plan.sky


def test_scene_says_whether_the_sky_is_tracked_and_it_is_black_as_published_otherwise(scene):
    assert not has_sky(scene, FULL) and not has_sky(scene, PREVIEW)
    for chosen, expected in (("sky", True), ("black", False)):
        scene.das.background = chosen
        assert has_sky(scene, FULL) is has_sky(scene, PREVIEW) is expected
        assert api.plan_shot(scene, FULL).sky is False
    assert api.plan_shot(scene, FULL, background="sky").sky is True
    assert "background" in words(panels.DAS_PT_window)


def test_farm_and_script_go_before_the_scene(scene):
    scene.das.background = "sky"
    for said, expected in (("black", "black"), (" Sky ", "sky"), ("", "sky")):
        assert resolve_settings(scene, {"DAS_BACKGROUND": said}).background == expected
    with pytest.raises(SettingsError, match="DAS_BACKGROUND is 'blue'; use black or sky") as caught:
        resolve_settings(scene, {"DAS_BACKGROUND": "blue"})
    assert caught.value.field == "background"
    with overrides(parser("das", commands.COMMANDS).parse_args(["render", "--background", "black"])):
        assert resolve_settings(scene).background == "black"
    for call in (api.render_take, api.export_tracking):
        with pytest.raises(SettingsError, match="background cannot be 'blue'"):
            call(scene, background="blue")


def test_another_background_is_a_change(scene):
    settings = resolve_settings(scene)
    name = scene.view_layers[0].name
    assert unchanged.now(scene, name, settings) != unchanged.now(scene, name, replace(settings, background="sky"))


def test_tracking_video_and_its_preview_show_it(shot_scene):
    plain = api.export_tracking(shot_scene, frames=[1, 2])
    sky = api.export_tracking(shot_scene, frames=[1, 2], background="sky")
    np.testing.assert_array_equal(plain.coverage, sky.coverage)
    assert not plain.video[~plain.coverage].any() and sky.video[~sky.coverage].any(axis=-1).all()
    for chosen in ("sky", "black"):
        shot_scene.das.background = chosen
        made = drive.finish(of_scene.tracking_preview(shot_scene, resolve_settings(shot_scene)))
        corner = decode_png(made.files[0].read_bytes())[0, -1]
        assert bool(corner.any()) is (chosen == "sky")
        assert any(finding.code == "shot.bare" for finding in made.report.findings) is (chosen == "black")


def test_takes_are_kept_apart_and_each_says_what_it_has(shot_scene):
    shot_scene.das.steps = 1
    black, sky = (api.render_take(shot_scene, frames=[1], background=chosen) for chosen in ("black", "sky"))
    assert black.key != sky.key and black.job_id != sky.job_id
    assert [take.report["background"] for take in (black, sky)] == ["black", "sky"]
    corners = [decode_png(take.tracking_frames[0].read_bytes())[0, -1] for take in (black, sky)]
    assert not corners[0].any() and corners[1].any()
    shot_scene.das.background = "sky"
    assert api.render_take(shot_scene, frames=[1]).key == sky.key
    bpy.data.objects["Cube"].scale = (20, 1, 20)  # nothing but surface: there would be one take only
    videos = [api.export_tracking(shot_scene, frames=[1], background=one).video for one in ("black", "sky")]
    np.testing.assert_array_equal(*videos)
