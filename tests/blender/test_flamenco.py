# SPDX-License-Identifier: GPL-3.0-or-later
"""The job type for Flamenco: compiled as the Manager compiles it, and its commands run."""

import json
import os
import shutil
import subprocess
import sys

import bpy
import pytest

from das_blender_addon import api
from tests.support.server import ROOT

pytestmark = [
    pytest.mark.any_blender,
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node, which runs the script"),
]
SCRIPT = ROOT / "docs" / "farm" / "das_shot.js"
FROM_BLENDER = ["--online-mode", "--command", "das"]
"""What Blender itself reads of a command; Blender as a module has `python -m das_blender_addon` instead."""


def compiled(**settings) -> dict:
    """What the Manager makes of the script and a job's settings."""
    command = ["node", str(ROOT / "tests" / "support" / "flamenco.js"), str(SCRIPT), json.dumps(settings)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def run(command: dict) -> subprocess.CompletedProcess:
    """As a worker would, with Blender as a module."""
    exe, words = command["parameters"]["exe"], command["parameters"]["args"]
    assert (command["name"], exe, words[:3]) == ("exec", "{blender}", FROM_BLENDER)
    own = [sys.executable, "-m", "das_blender_addon", *words[3:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(own, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_windows_are_tasks_of_their_own_and_the_frames_wait_for_them():
    made = compiled(blendfile="/p/a b.blend", server="tcp://gpu:5599", cache="/p/cache", scene="S", frames="1-9",
                    render_output_path="/p/out", parts=3)  # fmt: skip
    *parts, whole = made["tasks"]
    assert [task["name"] for task in parts] == ["windows-1-of-3", "windows-2-of-3", "windows-3-of-3"]
    assert all(task["type"] == "blender" and task["dependencies"] == [] for task in parts)
    assert whole["dependencies"] == [task["name"] for task in parts]
    common = [*FROM_BLENDER, "render", "/p/a b.blend", "--server", "tcp://gpu:5599", "--cache", "/p/cache"]
    common += ["--scene", "S", "--frames", "1-9"]
    assert parts[1]["commands"][0]["parameters"]["args"] == [*common, "--windows", "2/3"]
    assert whole["commands"][0]["parameters"]["args"] == [*common, "--output", "/p/out"]
    keys = [setting["key"] for setting in made["type"]["settings"]]
    assert {"blendfile", "server", "cache", "render_output_path", "parts"} <= set(keys) and len(set(keys)) == len(keys)
    (whole,) = compiled(blendfile="a", server="s", cache="c", render_output_path="o", parts=1)["tasks"]
    assert whole["dependencies"] == []


def test_commands_of_a_job_make_the_frames_and_fail_with_the_status_of_the_command(shot_scene, server, tmp_path):
    shot_scene.das.server = shot_scene.das.cache_folder = ""
    file = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    settings = {"blendfile": str(file), "server": server.address, "cache": str(tmp_path / "cache"), "parts": 2}
    tasks = compiled(**settings, render_output_path=str(tmp_path / "out"))["tasks"]
    for task in tasks:
        done = run(task["commands"][0])
        assert done.returncode == 0, done.stdout + done.stderr
    alone = api.render_take(bpy.context.scene, server=server.address, folder=tmp_path / "alone")
    made = sorted((tmp_path / "out").glob("*.png"))
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in alone.frames]
    file.unlink()
    assert run(tasks[-1]["commands"][0]).returncode != 0
