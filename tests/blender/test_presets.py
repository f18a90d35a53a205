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
    assert {*presets.SETTINGS, *presets.WORDS} <= set(scene.das.bl_rna.properties.keys())


def test_panel_offers_presets(scene):
    assert {"DAS_PT_presets", "DAS_PT_word_presets"} <= set(drawn(panels.DAS_PT_shot))


@pytest.fixture
def empty_lists():
    for kind in presets.KINDS:
        for file in presets.folder_of(kind).glob("*.py"):
            file.unlink()


WORDS = "A street,\n'by' night \"夜\" \\ {x}"


def test_prompts_and_styles_are_shared_as_files(scene, tmp_path, empty_lists):
    das = scene.das
    with pytest.raises(RuntimeError, match="no preset in the list yet"):
        bpy.ops.das.export_preset(kind="WORDS", directory=str(tmp_path / "shared"))
    das.prompt, das.negative_prompt, das.seed, das.steps = WORDS, "blur", 5, 7
    assert bpy.ops.das.add_word_preset(name="Street Ü") == {"FINISHED"}
    assert bpy.ops.das.export_preset(kind="WORDS", directory=str(tmp_path / "shared")) == {"FINISHED"}
    (shared,) = (tmp_path / "shared").iterdir()
    with pytest.raises(RuntimeError, match="is there already"):
        bpy.ops.das.export_preset(kind="WORDS", directory=str(tmp_path / "shared"))
    assert bpy.ops.das.export_preset(kind="WORDS", directory=str(tmp_path / "shared"), overwrite=True) == {"FINISHED"}
    assert bpy.ops.das.import_preset(kind="WORDS", filepath=str(shared)) == {"FINISHED"}
    files = sorted(presets.folder_of("WORDS").glob("*.py"))
    assert [file.stem for file in files] == [shared.stem, f"{shared.stem}_2"], "nothing is written over"
    das.prompt, das.negative_prompt, das.seed, das.steps = "", "", 6, 8
    bpy.ops.script.execute_preset(filepath=str(files[1]), menu_idname="DAS_PT_word_presets")
    assert (das.prompt, das.negative_prompt, das.seed, das.steps) == (WORDS, "blur", 6, 8)


HEAD = "import bpy\ndas = bpy.context.scene.das\n\n"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("import os\ndas.prompt = 'a'\n", "Line 1 .* is no setting"),
        (HEAD + "das.prompt = open('/etc/passwd').read()\n", "Line 4 .* is no setting"),
        (HEAD + "das.prompt = 'a' * 9\n", "is no setting"),
        (HEAD + "das.server = 'tcp://10.0.0.1:1'\n", "is no setting"),
        (HEAD + "bpy.context.scene.das.prompt = 'a'\n", "is no setting"),
        (HEAD + "das.prompt = ['a']\n", "is no setting"),
        (HEAD + "das.prompt = das.negative_prompt = 'a'\n", "is no setting"),
        (HEAD + "das.prompt =\n", "cannot be read"),
        ("\0", "cannot be read"),
        (HEAD, "says nothing"),
    ],
)
def test_file_of_somebody_else_is_never_run(scene, tmp_path, empty_lists, lines, sentence):
    file = tmp_path / "shared.py"
    file.write_text(lines)
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.das.import_preset(kind="WORDS", filepath=str(file))
    assert not list(presets.folder_of("WORDS").glob("*.py"))
    with pytest.raises(RuntimeError, match="cannot be read"):
        bpy.ops.das.import_preset(kind="WORDS", filepath=str(tmp_path / "missing.py"))


def test_settings_that_were_imported_come_back(scene, tmp_path, empty_lists):
    file = tmp_path / "fast.py"
    file.write_text(HEAD + "das.steps = 3\ndas.guidance = -1.5\ndas.compose = True\n")
    assert bpy.ops.das.import_preset(kind="SETTINGS", filepath=str(file)) == {"FINISHED"}
    (made,) = presets.folder_of("SETTINGS").glob("*.py")
    bpy.ops.script.execute_preset(filepath=str(made), menu_idname="DAS_PT_presets")
    assert (scene.das.steps, scene.das.compose) == (3, "ON")


def menu_entries() -> list:
    layout = Layout()
    model_menu.DAS_MT_models.draw(SimpleNamespace(layout=layout), bpy.context)
    return [(name, chosen.get("name")) for name, chosen in layout.buttons if name == "das.choose_model"]


def test_menu_lists_the_models_of_the_shots_server(shot_scene):
    assert "DAS_MT_models" in drawn(panels.DAS_PT_shot)
    known_servers.forget_servers()
    assert menu_entries() == []
    bpy.ops.das.test_connection()
    assert {name for _, name in menu_entries()} >= {"", "das-preview", "das-cogvideox-5b", "wan-vace-1.3b"}
    bpy.ops.das.choose_model(name="das-cogvideox-5b")
    assert shot_scene.das.model == "das-cogvideox-5b"
    bpy.ops.das.choose_model(name="")
    assert shot_scene.das.model == ""
    shot_scene.das.model = "of a server that was not asked"  # any name may be typed
    assert shot_scene.das.model == "of a server that was not asked"
