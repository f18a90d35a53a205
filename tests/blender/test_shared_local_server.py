# SPDX-License-Identifier: GPL-3.0-or-later
"""Two Blenders of one user and one local server: the second uses the first one's, and leaves it running."""

import os
import subprocess
import sys
import textwrap

import bpy
import pytest

from das_blender_addon import local_server
from das_blender_addon.client.client import DasClient
from das_blender_addon.local_server_files import BoundedLog
from das_blender_addon.shot import machine
from das_blender_addon.shot.settings import resolve_settings
from tests.blender.test_local_server import LIMIT_S, answers, program, wait_until  # noqa: F401
from tests.support.server import ROOT

pytestmark = pytest.mark.any_blender  # processes and a file with an address


@pytest.fixture
def other_blender(program):  # noqa: F811
    """Another Blender of the same user that has started a local server; ends, and its server with it, when its input
    is closed.
    """
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy
        import addon_utils
        addon_utils.enable("das_blender_addon", default_set=True)
        from das_blender_addon import local_server
        server = local_server.start()
        server.wait_until_listening({LIMIT_S})
        print("ADDRESS", server.address, flush=True)
        sys.stdin.read()
        sys.exit(0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"BLENDER_USER_RESOURCES": os.environ["BLENDER_USER_RESOURCES"]},
    )
    line = next(line for line in process.stdout if line.startswith("ADDRESS"))
    process.address = line.split()[1]
    yield process
    process.stdin.close()
    process.wait(LIMIT_S)


def test_second_blender_uses_the_running_server_and_leaves_it(scene, other_blender):
    bpy.ops.das.start_local_server()
    server = local_server.current()
    assert server.address == other_blender.address and server.is_running
    assert resolve_settings(scene, {}).server == other_blender.address
    assert not bpy.ops.das.stop_local_server.poll()
    local_server.stop()
    assert local_server.current() is None and answers(other_blender.address)
    with DasClient(other_blender.address, timeout_s=LIMIT_S) as client:
        assert client.hello().capabilities.models


def test_end_of_the_shared_server_is_noticed_and_an_own_one_can_be_started(scene, other_blender):
    bpy.ops.das.start_local_server()
    other_blender.stdin.close()
    wait_until(lambda: local_server.address() == "", "the end of the other one's server was not noticed")
    assert resolve_settings(scene, {}).server == machine.DEFAULT_SERVER
    wait_until(lambda: not answers(other_blender.address), "the other one's server did not end")
    bpy.ops.das.start_local_server()
    assert local_server.current().address != other_blender.address and answers(local_server.current().address)
    assert bpy.ops.das.stop_local_server.poll()


def test_address_of_a_server_that_is_gone_is_not_believed(scene, program):  # noqa: F811
    file = machine.user_folder("server") / "address"
    file.write_text("tcp://127.0.0.1:9\n")
    server = local_server.start()
    server.wait_until_listening(LIMIT_S)
    wait_until(lambda: file.read_text().strip() == server.address, "the address was not written")
    local_server.stop(wait=True)
    wait_until(lambda: not file.exists(), "the address was not removed")  # by the thread that reads the server's words


def test_server_log_keeps_one_old_file_of_bounded_size(tmp_path):
    log = BoundedLog(tmp_path / "server.log", limit_bytes=1000)
    for number in range(200):
        log.write(f"line {number:04d} of the log\n")
    log.close()
    files = {file.name: file for file in tmp_path.iterdir()}
    assert set(files) == {"server.log", "server.old.log"}
    assert all(file.stat().st_size <= 1000 for file in files.values())
    assert files["server.log"].read_text().endswith("line 0199 of the log\n")
    last = files["server.old.log"].read_text().splitlines()[-1]
    assert files["server.log"].read_text().startswith(f"line {int(last.split()[1]) + 1:04d}")


def test_log_of_an_earlier_session_is_bounded_too(tmp_path):
    (tmp_path / "server.log").write_text("x" * 5000)
    log = BoundedLog(tmp_path / "server.log", limit_bytes=1000)
    log.write("new\n")
    log.close()
    assert (tmp_path / "server.log").read_text() == "new\n"


