# SPDX-License-Identifier: GPL-3.0-or-later
"""How many of a shot's frames the model makes: by the scene's frame rate, by its own, or as somebody says."""

import bpy
import pytest

from das_blender_addon import api
from das_blender_addon.client import known_servers
from das_blender_addon.errors import SettingsError
from das_blender_addon.jobs import of_scene, unchanged
from das_blender_addon.jobs.sources import facts_of
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import recipes
from das_blender_addon.ui import panels
from tests.blender.test_panels import words
from tests.support.capabilities import capabilities_of, model_capability

SLOW = capabilities_of(model_capability(num_frames=[9], inputs=[], frames_per_second=8.0))


def made(scene) -> tuple[int, ...]:
    """Blender frames that the model makes, as a take of ``scene`` has them; what the panel says agrees."""
    settings = resolve_settings(scene)
    plan = recipes.plan_shot(facts_of(scene, settings), settings, SLOW)
    assert of_scene.plan_shot(scene, settings, SLOW).made == plan.made
    return tuple(plan.frames[index] for index in plan.made)


@pytest.mark.parametrize(
    ("fps", "base", "step", "frames"),
    [
        (24, 1.0, 1, (1, 4, 7, 9)),
        (30, 1.001, 1, (1, 5, 9)),
        (24, 2.0, 1, (1, 3, 5, 7, 9)),
        (24, 1.0, 2, (1, 5, 9)),
        (8, 1.0, 1, tuple(range(1, 10))),
    ],
)
def test_models_frames_follow_the_scenes_rate_and_step(scene, fps, base, step, frames):
    scene.render.fps, scene.render.fps_base, scene.frame_step = fps, base, step
    assert made(scene) == frames
    plan = api.plan_shot(scene, SLOW)
    assert tuple(plan.frames[index] for index in plan.made) == frames


def test_scene_environment_and_script_say_how_many(scene, monkeypatch):
    scene.das.model_frames_every = 4
    assert made(scene) == (1, 5, 9)
    for said, every in (("2", 2), ("AUTO", 0), ("0", 0), ("", 4)):
        assert resolve_settings(scene, {"DAS_MODEL_FRAMES_EVERY": said}).model_frames_every == every
    for wrong in ("-1", "1001", "1.5", "third"):
        with pytest.raises(SettingsError, match=f"DAS_MODEL_FRAMES_EVERY is '?{wrong}"):
            resolve_settings(scene, {"DAS_MODEL_FRAMES_EVERY": wrong})
    assert api.plan_shot(scene, SLOW, model_frames_every=1).made == tuple(range(9))
    with pytest.raises(SettingsError, match="one of every 'third' frames"):
        api.render_take(scene, model_frames_every="third")


def test_panel_says_how_many_there_are(shot_scene):
    assert "model_frames_every" in words(panels.DAS_PT_shot)
    bpy.ops.das.test_connection()
    known = {model.name: model for model in known_servers.known_capabilities(shot_scene.das.server).models}
    preview, full = known["das-preview"], known["das-cogvideox-5b"]
    assert (panels.automatic_every(shot_scene, preview), panels.automatic_every(shot_scene, full)) == (1, 3)
    shot_scene.das.model_frames_every = 3
    assert any("every 3rd frame (8 of 24 per second)" in line for line in panels.shot_summary(shot_scene))


def test_another_frame_rate_is_a_change(scene):
    settings = resolve_settings(scene)
    before = unchanged.now(scene, scene.view_layers[0].name, settings)
    scene.render.fps = 25
    assert unchanged.now(scene, scene.view_layers[0].name, settings) != before


@pytest.mark.any_blender
def test_take_with_every_third_frame_of_the_model_has_all_frames(shot_scene):
    shot_scene.das.steps = 1
    whole = api.render_take(shot_scene)
    third = api.render_take(shot_scene, model_frames_every=3)
    assert whole.report["model_frames_every"] == 1 and third.report["model_frames_every"] == 3
    assert len(third.frames) == len(third.model_frames) == len(third.tracking_frames) == len(whole.frames)
    assert third.key != whole.key and third.report["kept_frames"] < whole.report["kept_frames"]
    again = api.render_take(shot_scene, model_frames_every="auto")
    assert again.cached and again.key == whole.key
    for one, other in zip(third.tracking_frames, whole.tracking_frames, strict=True):
        assert (decode_png(one.read_bytes()) == decode_png(other.read_bytes())).all()
