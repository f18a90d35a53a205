# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension as users get it: built, installed into an empty profile, enabled, used through a real server."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import build_extension
from das_blender_addon.protocol.png import decode_png

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The ZIP with the wheels of this machine."""
    return build_extension.build(tmp_path_factory.mktemp("dist"), [build_extension.this_platform()])


@pytest.mark.any_blender
def test_extension_zip_is_the_same_twice(archive, tmp_path):
    again = build_extension.build(tmp_path, [build_extension.this_platform()])
    assert again.read_bytes() == archive.read_bytes()


def test_extension_zip_holds_the_whole_package_and_its_wheels(archive):
    names = set(zipfile.ZipFile(archive).namelist())
    package = ROOT / "das_blender_addon"
    wanted = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert wanted | {"blender_manifest.toml", "LICENSE"} <= names
    wheels = {Path(name).name for name in names if name.endswith(".whl")}
    for python in ("cp311", "cp313"):
        assert any(name.startswith("msgpack-") and f"-{python}-" in name for name in wheels)
    assert any("-cp311-cp311-" in name for name in wheels if name.startswith("pyzmq-"))
    assert any("-cp312-abi3-" in name for name in wheels if name.startswith("pyzmq-"))
    manifest = zipfile.ZipFile(archive).read("blender_manifest.toml").decode()
    assert all(name in manifest for name in wheels)


def test_extension_works_when_installed_into_an_empty_profile(archive, server, tmp_path):
    script = shutil.copy(ROOT / "tests" / "support" / "use_installed_extension.py", tmp_path / "use.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DAS_", "PYTHONPATH"))}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "profile")
    command = [sys.executable, "-P", str(script), str(archive), server.address, str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (tmp_path / "said.json").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["enabled"]
    assert Path(said["package"]).is_relative_to(tmp_path / "profile")
    assert Path(said["zmq"]).is_relative_to(said["wheels"])
    assert Path(said["msgpack"]).is_relative_to(said["wheels"])
    frames = [decode_png(path.read_bytes()) for path in sorted((tmp_path / "frames").glob("*.png"))]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 9
    assert all(np.ptp(frame) > 0 for frame in frames)
    assert not np.array_equal(frames[0], frames[-1])
