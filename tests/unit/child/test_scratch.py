# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders in the temporary folder: those of a process that was killed go, those of one that lives stay."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from das_blender_addon.child import scratch
from tests.support.server import ROOT

OWNER = """
import os, signal, sys
from pathlib import Path
from das_blender_addon.child import scratch
held = [scratch.Scratch(kind) for kind in scratch.KINDS]
for one in held:
    (Path(one.name) / "geometry.bin").write_bytes(bytes(1000))
print(*(one.name for one in held), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folders_of_every_kind_go_once_their_owner_was_killed(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        left = [Path(name) for name in owner.stdout.readline().split()]
        assert len(left) == len(scratch.KINDS)
        scratch.sweep()
        assert all((folder / "geometry.bin").is_file() for folder in left), "their owner lives"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    scratch.sweep()
    assert list(tmp_path.iterdir()) == []


def test_own_folders_stay_until_they_are_given_back(tmp_path):
    held = scratch.Scratch("geometry")
    other = scratch.Scratch("clip")  # sweeps
    assert Path(held.name).is_dir()
    held.cleanup()
    other.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_an_earlier_version_goes_when_it_is_old(tmp_path):
    young, old, foreign = (tmp_path / name for name in ("das-copy-young", "das-copy-old", "das-other-old"))
    for folder in (young, old, foreign):
        folder.mkdir()
    for folder in (old, foreign):
        os.utime(folder, (time.time() - 2 * scratch.UNLOCKED_S,) * 2)
    scratch.sweep()
    assert sorted(tmp_path.iterdir()) == [young, foreign]


def test_kind_that_nobody_would_sweep_is_refused():
    with pytest.raises(ValueError, match="never be swept"):
        scratch.Scratch("other")
