# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts in several lines, in files, and from markers on."""

import bpy
import pytest

from das_blender_addon import api
from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.kinds import MAX_PROMPT
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take.variations import combinations
from das_blender_addon.ui import panels
from tests.blender.test_panels import words

LINES = "# a try\n  eine rote Vase,\n\nbei Nacht 夜  \n# ende"
ONE = "eine rote Vase, bei Nacht 夜"
pytestmark = pytest.mark.any_blender


def text_of(name: str, lines: str):
    text = bpy.data.texts.new(name)
    text.write(lines)
    return text


def test_prompt_of_a_text_and_of_a_file(shot_scene, tmp_path, monkeypatch):
    shot_scene.das.prompt = "its own"
    assert resolve_settings(shot_scene).prompt == "its own"
    shot_scene.das.prompt_text = text_of("Prompt", LINES)
    assert resolve_settings(shot_scene).prompt == ONE
    file = tmp_path / "prompt ü.txt"
    file.write_text("\ufeffin a file\r\n# no\r\nof two lines\r\n", encoding="utf-8")
    monkeypatch.setenv("DAS_PROMPT_FILE", str(file))
    assert resolve_settings(shot_scene).prompt == "in a file of two lines"
    monkeypatch.setenv("DAS_PROMPT", "said")
    assert resolve_settings(shot_scene).prompt == "said"
    monkeypatch.delenv("DAS_PROMPT")
    refused = (b"\xff\xfe\xff", "no UTF-8"), (b"x" * (MAX_PROMPT + 1), "at most"), (None, "No such file")
    for content, sentence in refused:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match=sentence):
            resolve_settings(shot_scene)
    file.write_text("# nothing\n")
    assert resolve_settings(shot_scene).prompt == ""
    monkeypatch.delenv("DAS_PROMPT_FILE")
    bpy.data.texts.remove(shot_scene.das.prompt_text)
    assert resolve_settings(shot_scene).prompt == "its own"


def test_markers_change_the_prompt(shot_scene, monkeypatch):
    markers = shot_scene.timeline_markers
    text_of("Long", LINES)
    for name, frame in (("Prompt:  a lamp ", 30), ("prompt: @Long", -2), ("prompt:", 50), ("a prompt: no", 7)):
        markers.new(name, frame=frame)
    asked = resolve_settings(shot_scene)
    assert asked.prompts_at == ((-2, ONE), (30, "a lamp"), (50, ""))
    assert "Markers change the prompt at -2, 30, 50" in words(panels.DAS_PT_shot)
    assert [one.prompts_at for one in combinations(asked, prompts=("a", "b"))] == [(), ()]
    assert combinations(asked, seeds=(1,))[0].prompts_at == asked.prompts_at
    monkeypatch.setenv("DAS_PROMPT", "for all of it")
    assert resolve_settings(shot_scene).prompts_at == ()
    monkeypatch.delenv("DAS_PROMPT")
    markers.new("prompt: @Nowhere", frame=60)
    with pytest.raises(SettingsError, match="at frame 60 names a text that is not in the file"):
        resolve_settings(shot_scene)
    assert "names a text" in words(panels.DAS_PT_shot)


def test_take_has_the_prompt_of_the_marker_before_its_first_frame(shot_scene, tmp_path):
    shot_scene.frame_end, shot_scene.das.prompt = 2, "its own"
    shot_scene.timeline_markers.new("prompt: marked", frame=1)
    take = api.render_take(shot_scene, folder=tmp_path)
    assert take.report["prompts_at"] == [[1, "marked"]] and take.report["prompt"] == "its own"
    whole = api.render_take(shot_scene, folder=tmp_path, prompt="marked")
    assert whole.cached and whole.key == take.key  # the model is asked for the same
    assert api.render_take(shot_scene, folder=tmp_path, prompt="its own").key != take.key
