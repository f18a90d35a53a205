# SPDX-License-Identifier: GPL-3.0-or-later
"""Enabling the extension brings everything, disabling takes everything away; settings and what overrides them."""

import tempfile
import threading
from pathlib import Path

import addon_utils
import bpy
import pytest

from das_blender_addon.child import scratch
from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.messages import INTERACTIVE
from das_blender_addon.shot import machine
from das_blender_addon.shot import settings as shot_settings
from das_blender_addon.ui import (
    adherence,
    key_pictures,
    panels,
    pass_panel,
    queue_panel,
    shot_check,
    takes,
    tracking_choices,
)

OPERATORS = (
    "test_connection",
    "randomise_seed",
    "preview_tracking",
    "render_first_frame",
    "open_first_frame",
    "render_take",
    "cancel",
    "add_to_sequencer",
    "start_local_server",
    "stop_local_server",
)


def engines() -> set[str]:
    return {
        engine.bl_idname
        for engine in bpy.types.RenderEngine.__subclasses__()
        if hasattr(engine, "bl_idname") and engine.is_registered
    }


def registered_names() -> set[str]:
    return {name for name in dir(bpy.types) if name.startswith("DAS_")}


def panels_for_the_engine() -> set[str]:
    """Names of the panels that show for the engine, registered or not."""
    return {
        panel.__name__ for panel in bpy.types.Panel.__subclasses__() if "DAS" in getattr(panel, "COMPAT_ENGINES", ())
    }


def test_engine_can_be_chosen_when_enabled(scene):
    scene.render.engine = "DAS"
    assert scene.render.engine == "DAS"


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_exists(scene, name):
    assert getattr(bpy.ops.das, name).get_rna_type().description


def test_enabling_sweeps_what_killed_blenders_left(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "das-geometry-left"
    left.mkdir()
    (left / scratch.LOCK).touch()
    addon_utils.disable("das_blender_addon")
    addon_utils.enable("das_blender_addon", default_set=True)
    for thread in threading.enumerate():
        if thread.name == "das sweep":
            thread.join()
    assert not left.exists()


def test_disabling_takes_everything_away(scene):
    before = registered_names()
    addon_utils.disable("das_blender_addon")
    try:
        assert before and not registered_names()
        assert not hasattr(bpy.types.Scene, "das") and not hasattr(bpy.types.WindowManager, "das")
        with pytest.raises(TypeError):
            scene.render.engine = "DAS"
        modules = (panels, key_pictures, shot_check, takes, tracking_choices, pass_panel, adherence, queue_panel)
        ours = [cls for module in modules for cls in module.CLASSES]
        assert not panels_for_the_engine() - {panel.__name__ for panel in ours}
        handlers = [
            handler
            for name in (
                "render_init",
                "load_pre",
                "load_post",
                "undo_pre",
                "undo_post",
                "redo_pre",
                "redo_post",
                "save_pre",
            )
            for handler in getattr(bpy.app.handlers, name)
        ]
        assert not [handler for handler in handlers if handler.__module__.startswith("das_blender_addon")]
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)
    assert registered_names() == before


def test_panels_are_back_when_enabled_again(scene):
    before = panels_for_the_engine()
    addon_utils.disable("das_blender_addon")
    addon_utils.enable("das_blender_addon", default_set=True)
    scene.render.engine = "DAS"
    assert panels_for_the_engine() == before
    assert all(panel.poll(bpy.context) for panel in panels.CLASSES)


def test_blenders_output_panels_show_for_the_engine(scene):
    names = panels_for_the_engine()
    assert {"RENDER_PT_format", "RENDER_PT_frame_range", "RENDER_PT_output", "RENDER_PT_color_management"} <= names
    assert "CYCLES_MATERIAL_PT_surface" in names
    assert not [name for name in names if "freestyle" in name]


# ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_are_the_scenes_when_nothing_overrides(scene):
    scene.das.prompt, scene.das.seed, scene.das.model = "a cat", 7, "das-preview"
    settings = shot_settings.resolve_settings(scene, {})
    assert (settings.prompt, settings.seed, settings.model) == ("a cat", 7, "das-preview")
    assert settings.server == machine.DEFAULT_SERVER and settings.frames == tuple(range(1, 10))
    assert settings.size is None and settings.tracking_range == "" and settings.cache_folder.is_absolute()


def test_environment_goes_before_the_scene_and_the_scene_before_the_preferences(scene):
    chosen = bpy.context.preferences.addons["das_blender_addon"].preferences
    chosen.server = "tcp://127.0.0.1:1111"
    try:
        assert shot_settings.resolve_settings(scene, {}).server == "tcp://127.0.0.1:1111"
        scene.das.server = "tcp://127.0.0.1:2222"
        assert shot_settings.resolve_settings(scene, {}).server == "tcp://127.0.0.1:2222"
        assert (
            shot_settings.resolve_settings(scene, {"DAS_SERVER": "tcp://127.0.0.1:3333"}).server == "tcp://127.0.0.1:3333"
        )
    finally:
        chosen.server = machine.DEFAULT_SERVER


def test_environment_overrides_every_setting(scene):
    settings = shot_settings.resolve_settings(
        scene,
        {
            "DAS_TIMEOUT_S": "12.5",
            "DAS_MODEL": "das",
            "DAS_PROMPT": "fog",
            "DAS_NEGATIVE_PROMPT": "sun",
            "DAS_SEED": "3",
            "DAS_STEPS": "8",
            "DAS_GUIDANCE": "6.5",
            "DAS_SIZE": "720x480",
            "DAS_TRACKING_RANGE": "Unit",
            "DAS_BACKGROUND": "Sky",
            "DAS_COMPOSE": "0",
            "DAS_MODEL_FRAMES_EVERY": "3",
            "DAS_FRAMES": "3-9x3",
            "DAS_FIRST_FRAME": "/images/first.png",
            "DAS_FIRST_FRAME_ENGINE": "workbench",
            "DAS_FIRST_FRAME_SAMPLES": "8",
            "DAS_CACHE": "/scratch/das",
            "DAS_PRIORITY": "Interactive",
            "DAS_MEASURE": "yes",
            "DAS_WINDOW_SEEDS": "3:5, 2:17",
            "DAS_LORA": " ink:0.8, grain ,oil:-.5",
            "DAS_SPEED": "Fast",
        },
    )
    assert (settings.timeout_s, settings.model, settings.prompt, settings.negative_prompt) == (
        12.5,
        "das",
        "fog",
        "sun",
    )
    assert (settings.seed, settings.steps, settings.guidance, settings.size) == (3, 8, 6.5, (720, 480))
    assert settings.frames == (3, 6, 9) and settings.first_frame_path == "/images/first.png"
    assert settings.first_frame_engine == "WORKBENCH" and settings.first_frame_samples == 8
    assert settings.tracking_range == "unit" and settings.compose is False
    assert settings.model_frames_every == 3 and settings.background == "sky"
    assert settings.priority_for(in_window=False) == INTERACTIVE
    assert settings.cache_folder == Path("/scratch/das")
    assert settings.loras == (("ink", 0.8), ("grain", 1.0), ("oil", -0.5)) and settings.speed == "fast"
    assert settings.measure is True and settings.window_seeds == ((2, 17), (3, 5))


@pytest.mark.parametrize("said", ["2", "0:4", "2:3,2:4", "a:b", "2:2147483648", "2:-1", "1:2,"])
def test_window_seeds_that_mean_nothing_are_refused(scene, said):
    with pytest.raises(SettingsError, match="seeds of windows"):
        shot_settings.resolve_settings(scene, {"DAS_WINDOW_SEEDS": said})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DAS_PRIORITY", "urgent"),
        ("DAS_LORA", "ink:strong"),
        ("DAS_LORA", "ink:0.5,ink:0.8"),
        ("DAS_LORA", ":0.5"),
        ("DAS_SPEED", "faster"),
        ("DAS_SEED", "seven"),
        ("DAS_SEED", "-1"),
        ("DAS_STEPS", "2.5"),
        ("DAS_TIMEOUT_S", "0"),
        ("DAS_SIZE", "720"),
        ("DAS_FRAMES", "1-"),
        ("DAS_TRACKING_RANGE", "wide"),
        ("DAS_BACKGROUND", "blue"),
        ("DAS_COMPOSE", "perhaps"),
        ("DAS_FIRST_FRAME_ENGINE", "LUXCORE"),
        ("DAS_FIRST_FRAME_SAMPLES", "0"),
    ],
)
def test_unusable_override_is_refused_with_its_value(scene, name, value):
    with pytest.raises(SettingsError, match=value):
        shot_settings.resolve_settings(scene, {name: value})


def test_override_of_frames_that_ends_before_it_starts_is_refused(scene):
    with pytest.raises(SettingsError, match="The frames 9 to 1 in steps of 1 are none"):
        shot_settings.resolve_settings(scene, {"DAS_FRAMES": "9-1"})


def test_shot_range_replaces_the_scenes_range(scene):
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 4, 8
    scene.frame_step = 2
    assert shot_settings.resolve_settings(scene, {}).frames == (4, 6, 8)


def test_shot_that_ends_before_it_starts_is_refused(scene):
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 8, 4
    with pytest.raises(SettingsError, match="The frames 8 to 4 in steps of 1 are none"):
        shot_settings.resolve_settings(scene, {})


@pytest.mark.any_blender
@pytest.mark.parametrize("chosen", ["//", "//cache"])
def test_cache_beside_a_file_that_was_never_saved_is_the_users_own(scene, tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    own = shot_settings.resolve_settings(scene, {}).cache_folder
    scene.das.cache_folder = chosen
    assert shot_settings.resolve_settings(scene, {}).cache_folder == own and tmp_path not in own.parents
    (tmp_path / "shots").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shots" / "shot.blend"))
    expected = tmp_path / "shots" / chosen.removeprefix("//")
    assert shot_settings.resolve_settings(bpy.context.scene, {}).cache_folder == expected


def test_cache_lies_beside_a_saved_file(scene, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert shot_settings.resolve_settings(bpy.context.scene, {}).cache_folder == tmp_path / "das_cache"
    bpy.context.scene.das.cache_folder = "//elsewhere"
    assert shot_settings.resolve_settings(bpy.context.scene, {}).cache_folder == tmp_path / "elsewhere"


def test_server_on_another_machine_needs_online_access(scene):
    assert not bpy.app.online_access
    with pytest.raises(SettingsError, match="online access"):
        machine.check_online_access("tcp://render.studio:5599")
    machine.check_online_access("tcp://127.0.0.1:5599")
