# SPDX-License-Identifier: GPL-3.0-or-later
"""A local server from the preferences: started, answering, watched, and gone when Blender is."""

import os
import socket
import subprocess
import sys
import textwrap
import time

import bpy
import pytest

from das_blender_addon import local_server
from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import ServerUnreachable, SettingsError
from das_blender_addon.shot import machine
from das_blender_addon.shot import settings as shot_settings
from tests.support.server import ROOT, server_environment, server_python

LIMIT_S = 240.0


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A `das-server` program that runs the real server, chosen through the environment; whatever was started is
    stopped.
    """
    path = tmp_path / "das-server"
    path.write_text(f'#!/bin/sh\ncd "{ROOT}"\nexec "{server_python()}" -m das_server "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("DAS_SERVER_EXECUTABLE", str(path))
    monkeypatch.setattr(local_server, "GREETING_S", 60.0)  # on a busy machine an answer takes its time
    for name, value in server_environment().items():
        monkeypatch.setenv(name, value)
    yield path
    local_server.stop()


def answers(address: str) -> bool:
    """Something listens there."""
    host, port = address.removeprefix("tcp://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_started_server_answers_and_its_address_counts(scene, program):
    bpy.ops.das.start_local_server()
    server = local_server.current()
    with DasClient(server.address, timeout_s=LIMIT_S) as client:
        assert client.hello().capabilities.models
    assert shot_settings.resolve_settings(scene, {}).server == server.address
    assert shot_settings.resolve_settings(scene, {"DAS_SERVER": "tcp://127.0.0.1:1"}).server == "tcp://127.0.0.1:1"
    wait_until(lambda: server.log_tail, "the server wrote no log")
    assert server.log_path.read_text()


def test_stopped_server_is_gone(scene, program):
    bpy.ops.das.start_local_server()
    server = local_server.current()
    assert answers(server.address)
    bpy.ops.das.stop_local_server()
    assert not answers(server.address) and local_server.current() is None
    assert shot_settings.resolve_settings(scene, {}).server == machine.DEFAULT_SERVER


def test_stopping_in_a_window_does_not_wait(scene, program):
    program.write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    server = local_server.start()
    wait_until(lambda: "ready" in server.log_tail, "the program did not start")
    local_server.stop(wait=False)
    assert server.is_running and local_server.current() is None and local_server.address() == ""
    assert "still ending" in local_server.can_start()
    with pytest.raises(SettingsError, match="still ending"):
        local_server.start()
    wait_until(lambda: not server.is_running, "the guard did not end it")
    assert local_server.can_start() == ""


def test_server_is_started_once(scene, program):
    assert local_server.start() is local_server.start()


@pytest.mark.any_blender
def test_server_that_died_is_noticed_and_started_again(scene, program):
    first = local_server.start()
    first.wait_until_listening(LIMIT_S)
    first.process.stdin.close()
    wait_until(lambda: not first.is_running, "the server survived")
    assert shot_settings.resolve_settings(scene, {}).server == machine.DEFAULT_SERVER
    second = local_server.start()
    second.wait_until_listening(LIMIT_S)
    assert second.is_running and second.process.pid != first.process.pid


def test_server_that_cannot_start_says_why(scene, program):
    program.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    with pytest.raises(ServerUnreachable, match="status 3.*no torch here"):
        local_server.start().wait_until_listening(LIMIT_S)


def test_missing_program_is_named(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_SERVER_EXECUTABLE", str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match="nothing"):
        local_server.find_executable()
    monkeypatch.delenv("DAS_SERVER_EXECUTABLE")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="no das-server on the PATH"):
        local_server.find_executable()
    assert not bpy.ops.das.start_local_server.poll()


@pytest.mark.any_blender
@pytest.mark.parametrize("ending", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_server_does_not_outlive_its_blender(program, ending):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy
        import addon_utils
        addon_utils.enable("das_blender_addon", default_set=True)
        from das_blender_addon import local_server
        server = local_server.start()
        server.wait_until_listening({LIMIT_S})
        print("ADDRESS", server.address, flush=True)
        {ending}
    """
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(program.parent / "profile")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    address = done.stdout.split("ADDRESS ")[1].split()[0]
    wait_until(lambda: not answers(address), "the server outlived its Blender")
