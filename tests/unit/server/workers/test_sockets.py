# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of local sockets: those of killed servers go, those of living ones and of others stay."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from das_server.workers.sockets import PREFIX, SocketFolder, sweep

pytest.importorskip("fcntl")
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folder_of_a_killed_server_is_swept_at_the_next_start_and_that_of_a_living_one_stays(temporary):
    code = "import sys; from das_server.workers.sockets import SocketFolder; folder = SocketFolder()\n"
    code += "print(folder.path, flush=True); sys.stdin.read()"
    environment = os.environ | {"TMPDIR": str(temporary)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    killed, living = (Path(one.stdout.readline().strip()) for one in processes)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait(60)
    mine = SocketFolder()
    assert not killed.exists() and living.is_dir() and mine.path.is_dir()
    assert mine.path.stat().st_mode & 0o077 == 0
    processes[1].communicate("")
    mine.close()
    sweep()
    assert list(temporary.iterdir()) == []


def test_folder_without_a_lock_goes_only_when_it_is_old(temporary):
    folder = temporary / f"{PREFIX}of-an-older-release"
    folder.mkdir()
    sweep()
    assert folder.is_dir()
    os.utime(folder, (1000, 1000))
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    sweep()
    assert not folder.exists() and elsewhere.is_dir()
