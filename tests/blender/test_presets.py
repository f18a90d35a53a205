# SPDX-License-Identifier: GPL-3.0-or-later
"""Presets of the settings through Blender's own preset system, and the menu of models."""

from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

from das_blender_addon.client import known_servers
from das_blender_addon.ui import model_menu, panels, presets
from tests.blender.test_panels import Layout, drawn


def test_preset_brings_the_settings_back_and_leaves_what_the_shot_shows(scene):
    das = scene.das
    das.steps, das.guidance, das.model, das.size, das.compose = 7, 2.5, "tiny", "96x64", "OFF"
    bpy.ops.das.add_preset(name="Fine Take")
    folder = Path(bpy.utils.user_resource("SCRIPTS", path=f"presets/{presets.DAS_PT_presets.preset_subdir}"))
    (file,) = folder.glob("*.py")
    das.steps, das.guidance, das.model, das.size, das.compose = 1, 1.0, "", "AUTO", "ON"
    das.prompt, das.seed = "a fox", 5
    bpy.ops.script.execute_preset(filepath=str(file), menu_idname="DAS_PT_presets")
    assert (das.steps, das.guidance, das.model, das.size, das.compose) == (7, 2.5, "tiny", "96x64", "OFF")
    assert (das.prompt, das.seed) == ("a fox", 5)
    bpy.ops.das.add_preset(name="Fine Take", remove_name=True)
    assert not file.exists()


@pytest.mark.parametrize(("said", "means"), [(True, "ON"), (False, "OFF"), ("FINE", "FINE")])
def test_preset_of_the_time_when_key_picture_detail_was_a_switch_is_read(scene, tmp_path, said, means):
    file = tmp_path / "older.py"
    lines = ["import bpy", "das = bpy.context.scene.das", "", "das.steps = 9", f"das.compose = {said!r}"]
    file.write_text("\n".join([*lines, "das.size = '96x64'", ""]))
    scene.das.compose = "AUTO"
    bpy.ops.script.execute_preset(filepath=str(file), menu_idname="DAS_PT_presets")
    assert (scene.das.steps, scene.das.compose, scene.das.size) == (9, means, "96x64")


def test_every_setting_of_a_preset_exists(scene):
    assert set(presets.SETTINGS) <= set(scene.das.bl_rna.properties.keys())


def test_panel_offers_presets(scene):
    assert "DAS_PT_presets" in drawn(panels.DAS_PT_shot)


def menu_entries() -> list:
    layout = Layout()
    model_menu.DAS_MT_models.draw(SimpleNamespace(layout=layout), bpy.context)
    return [(name, chosen.get("name")) for name, chosen in layout.buttons if name == "das.choose_model"]


def test_menu_lists_the_models_of_the_shots_server(shot_scene):
    assert "DAS_MT_models" in drawn(panels.DAS_PT_shot)
    known_servers.forget_servers()
    assert menu_entries() == []
    bpy.ops.das.test_connection()
    assert {name for _, name in menu_entries()} == {"", "das-preview", "das-cogvideox-5b"}
    bpy.ops.das.choose_model(name="das-cogvideox-5b")
    assert shot_scene.das.model == "das-cogvideox-5b"
    bpy.ops.das.choose_model(name="")
    assert shot_scene.das.model == ""
    shot_scene.das.model = "of a server that was not asked"  # any name may be typed
    assert shot_scene.das.model == "of a server that was not asked"
