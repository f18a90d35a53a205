# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's line about the server: why nobody answers, until somebody does."""

import bpy
import pytest

from das_blender_addon import api
from das_blender_addon.client import known_servers
from das_blender_addon.ui import panels
from tests.blender.test_panels import words
from tests.support.server import running_server


@pytest.fixture
def late_server(tmp_path):
    """A server that is not there yet: its address, and what starts it."""
    with running_server(tmp_path / "state") as process:
        process.kill()
        yield process


@pytest.fixture
def failed_test(shot_scene, late_server, monkeypatch):
    """*Test Connection* found nobody."""
    known_servers.forget_servers()
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    shot_scene.das.server = late_server.address
    with pytest.raises(RuntimeError, match="127.0.0.1"):
        bpy.ops.das.test_connection()
    assert f"answers at {late_server.address}" in words(panels.DAS_PT_shot).replace("Nobody", "")
    return shot_scene


@pytest.mark.any_blender
def test_alert_goes_when_a_take_has_heard_the_server(failed_test, late_server, monkeypatch):
    monkeypatch.delenv("DAS_TIMEOUT_S")
    late_server.start()
    api.render_take(failed_test)
    shown = words(panels.DAS_PT_shot)
    assert "answers at" not in shown and "das-server" in shown


@pytest.mark.any_blender
def test_alert_stays_when_another_server_answers(failed_test, server, late_server):
    failed_test.das.server = server.address
    api.render_take(failed_test)
    failed_test.das.server = late_server.address
    assert "127.0.0.1" in words(panels.DAS_PT_shot)
