# SPDX-License-Identifier: GPL-3.0-or-later
"""*Pair…* and ``das pair``, with a real front door."""

import json

import bpy
import pytest

from das_blender_addon import commands
from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import AuthenticationFailed, SettingsError
from das_blender_addon.protocol.pairing import Pairing

front_door = pytest.importorskip("tests.support.front_door")


@pytest.fixture
def locked(tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_KEYS", str(tmp_path / "keys.json"))
    with front_door.FrontDoor(tmp_path / "state", locked=True) as door:
        yield door


def line(door):
    return Pairing(door.address, door.keys.server_keys()[0], door.keys.pair("ada")).line


@pytest.fixture
def preferences(addon):
    """The extension's, as they were afterwards."""
    found = bpy.context.preferences.addons["das_blender_addon"].preferences
    before = found.server
    yield found
    found.server = before


def test_operator_pairs_and_says_what_is_wrong(preferences, locked):
    text = line(locked)
    assert bpy.ops.das.pair(line=text) == {"FINISHED"} and preferences.server == locked.address
    with DasClient(locked.address, timeout_s=20) as client:
        client.ping()
    with pytest.raises(RuntimeError, match="does not let in"):
        bpy.ops.das.pair(line=text)
    with pytest.raises(RuntimeError, match="paste the whole line"):
        bpy.ops.das.pair(line="das-pair:gpu")


def test_command_pairs_and_ends_with_the_errors_status(locked, capsys):
    text = line(locked)
    assert commands.main(["pair", text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["user"] == "ada"
    assert commands.main(["pair", text]) == AuthenticationFailed.exit_code
    assert commands.main(["pair", "nonsense"]) == SettingsError.exit_code
    assert "nonsense" not in capsys.readouterr().err
