# SPDX-License-Identifier: GPL-3.0-or-later
"""The child Blenders of a process and what they leave in the temporary folder, as the operating system sees them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

SCRATCH = ("das-copy-*", "das-child-*", "das-geometry-*", "das-clip-*")
"""Folders of a job in the temporary folder; that of a child which is kept for the next job stays."""


def lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has buried yet does not."""
    return _status(pid)[:1] not in ("", "Z", "X")


def child_blenders(parent: int | None = None) -> list[int]:
    """The process ids of the running child Blenders of ``parent``, None for this process."""
    parent = os.getpid() if parent is None else parent
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or not lives(int(folder.name)):
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        is_ours = _status(int(folder.name)).split()[1:2] == [str(parent)]
        if is_ours and any(word.endswith(os.path.join("child", "host.py")) for word in words):
            found.append(int(folder.name))
    return sorted(found)


def kill_child_blenders() -> list[int]:
    """End the child Blenders of this process as a crash would; returns which."""
    killed = child_blenders()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


def wait_until_gone(pids: list[int], limit_s: float) -> bool:
    """Whether all of ``pids`` have ended within ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while any(lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def scratch_folders(*patterns: str) -> list[str]:
    """Names of the jobs' folders in the temporary folder."""
    folder = Path(tempfile.gettempdir())
    return sorted(path.name for pattern in patterns or SCRATCH for path in folder.glob(pattern))


def _status(pid: int) -> str:
    """State and parent of a process; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
