# SPDX-License-Identifier: GPL-3.0-or-later
"""A file from a stranger does not choose where data goes: its server counts when its user agreed."""

from types import SimpleNamespace

import bpy
import pytest

from das_blender_addon import api, commands, errors
from das_blender_addon.command_line import footage
from das_blender_addon.errors import SettingsError
from das_blender_addon.shot import machine, server_consent
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.ui import panels
from das_blender_addon.ui.import_job import ImportOperator
from tests.blender.test_panels import Layout, words

STRANGERS = "tcp://render.example:5599"


@pytest.fixture
def online(addon):
    """Blender may go online."""
    system = bpy.context.preferences.system
    system.use_online_access = True
    yield
    system.use_online_access = False


def save_as_stranger(scene, file, server: str):
    """The file as somebody else has saved it, opened here for the first time."""
    scene.das.server = server
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    server_consent._answers.clear()
    server_consent._path().unlink(missing_ok=True)
    bpy.ops.wm.open_mainfile(filepath=str(file))
    return bpy.context.scene


@pytest.fixture
def strangers(scene, tmp_path):
    scene.render.engine = "DAS"
    return save_as_stranger(scene, tmp_path / "stranger.blend", STRANGERS)


def start_anew(file) -> object:
    """As another session finds it."""
    server_consent._answers.clear()
    bpy.ops.wm.open_mainfile(filepath=str(file))
    return bpy.context.scene


# ── In a window ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_window_asks_and_jobs_are_refused_until_it_is_answered(strangers):
    asked = server_consent.question(strangers, in_window=True)
    assert STRANGERS in asked and machine.DEFAULT_SERVER in asked
    layout = Layout()
    panels.DAS_PT_shot.draw(SimpleNamespace(layout=layout), bpy.context)
    assert {"das.use_files_server", "das.use_own_server"} <= set(layout.drawn)
    assert "das.test_connection" not in layout.drawn


def test_use_this_files_server_is_remembered_for_the_file(strangers):
    bpy.ops.das.use_files_server()
    file = bpy.data.filepath
    scene = start_anew(file)
    assert server_consent.question(scene, in_window=True) == "" and resolve_settings(scene, {}).server == STRANGERS
    assert "das.use_files_server" not in words(panels.DAS_PT_shot)


def test_use_mine_is_remembered_and_can_be_taken_back(strangers):
    bpy.ops.das.use_own_server()
    scene = start_anew(bpy.data.filepath)
    assert server_consent.question(scene, in_window=True) == ""
    assert resolve_settings(scene, {}).server == machine.DEFAULT_SERVER and scene.das.server == STRANGERS
    assert "you chose your own" in words(panels.DAS_PT_machine)
    bpy.ops.das.use_files_server()
    assert resolve_settings(scene, {}).server == STRANGERS


def test_answer_counts_for_that_file_and_that_server_only(strangers, tmp_path):
    bpy.ops.das.use_files_server()
    other = tmp_path / "other.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(other), copy=True)
    assert server_consent.question(start_anew(other), in_window=True)
    scene = start_anew(tmp_path / "stranger.blend")
    assert server_consent.question(scene, in_window=True) == ""
    scene.das.server = "tcp://elsewhere.example:1"
    bpy.ops.wm.save_mainfile()
    assert "elsewhere" in server_consent.question(start_anew(bpy.data.filepath), in_window=True)


def test_answer_goes_with_a_file_that_is_saved_under_another_name(strangers, tmp_path):
    bpy.ops.das.use_files_server()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "renamed.blend"))
    assert server_consent.question(start_anew(tmp_path / "renamed.blend"), in_window=True) == ""


def test_who_types_a_server_has_agreed_and_is_not_asked(scene, tmp_path):
    scene.das.server = STRANGERS
    assert server_consent.question(scene, in_window=True) == ""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "own.blend"))
    assert server_consent.question(bpy.context.scene, in_window=True) == ""


def test_server_of_the_preferences_needs_no_answer(scene, tmp_path):
    scene = save_as_stranger(scene, tmp_path / "same.blend", "127.0.0.1:5599")
    assert server_consent.question(scene, in_window=True) == ""


# ── Without a window ────────────────────────────────────────────────────────────────────────────────────────────────


def test_file_does_not_choose_another_machine_without_a_window(strangers, online):
    with pytest.raises(SettingsError, match=f"DAS_SERVER={STRANGERS} or --server {STRANGERS}"):
        api.render_take(strangers)
    with pytest.raises(RuntimeError, match="if you trust the file"):
        bpy.ops.das.test_connection()


@pytest.mark.any_blender
def test_file_does_not_choose_who_gets_a_picture_that_is_imported(strangers, online, monkeypatch):
    wanted = {"server": STRANGERS, "depth": "auto"}
    asked = SimpleNamespace(filepath="mine.png", wanted=lambda scene: wanted)
    for ask in (lambda: ImportOperator.make_recipe(asked, strangers), lambda: footage._server(True, {})):
        with pytest.raises(SettingsError, match=f"DAS_SERVER={STRANGERS}"):
            ask()
    monkeypatch.setenv("DAS_SERVER", STRANGERS)
    assert footage._server(True, {})["server"] == STRANGERS
    ImportOperator.make_recipe(asked, strangers).close()


def test_file_may_choose_a_server_of_this_machine_without_a_window(shot_scene, server, tmp_path):
    scene = save_as_stranger(shot_scene, tmp_path / "loopback.blend", server.address)
    assert resolve_settings(scene, {}).server == server.address
    bpy.ops.das.test_connection()


def test_environment_and_command_line_count_as_consent(strangers, online, monkeypatch, capsys):
    flags = ["--server", STRANGERS, "--timeout", "1", "--scene", strangers.name]
    assert commands.main(["doctor", *flags]) == errors.ServerUnreachable.exit_code
    assert commands.main(["doctor", "--timeout", "1"]) == errors.SettingsError.exit_code
    capsys.readouterr()
    monkeypatch.setenv("DAS_SERVER", STRANGERS)
    assert server_consent.question(strangers, in_window=False) == ""


# ── Online access ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_but_blenders_switch_permits_another_machine(scene, monkeypatch):
    monkeypatch.setenv("DAS_SERVER", STRANGERS)
    with pytest.raises(SettingsError, match="online access is off; start Blender .* with --online-mode"):
        api.render_take(scene)
    with pytest.raises(SettingsError, match="online access is off"):
        api.render_take(scene, server=STRANGERS)
    with pytest.raises(SettingsError, match="online access is off"):
        api.server_capabilities(STRANGERS)
    with pytest.raises(SettingsError, match="online access is off"):
        api.run_take(None, STRANGERS)


def test_online_mode_of_the_command_permits_it_for_the_command(scene, capsys):
    status = commands.main(["doctor", "--server", STRANGERS, "--timeout", "1", "--online-mode"])
    assert status == errors.ServerUnreachable.exit_code and not bpy.app.online_access
    assert commands.main(["doctor", "--server", STRANGERS]) == errors.SettingsError.exit_code
