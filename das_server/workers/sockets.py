# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders for the local socket of a server whose state folder has too long a name: made, and swept after their server.

A folder is its server's as long as that holds the lock on a file in it, which ends with the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)

PREFIX = "das-server-"
LOCK = "lock"
YOUNG_S = 60.0
"""A folder without a lock is left alone for so long: its server may be about to make one."""


class SocketFolder:
    """A folder of this process, for it and its user only, until `close`."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock: IO[str] = open(self.path / LOCK, "w", encoding="utf-8")  # noqa: SIM115 — open as long as it lives
        _try_to_lock(self._lock)

    def close(self) -> None:
        """Remove it."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of this user's servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or _is_in_use(folder):
                continue
            shutil.rmtree(folder)
            _log.info("%s, which a killed server left, is removed", folder)


def _is_in_use(folder: Path) -> bool:
    try:
        with open(folder / LOCK, "r+", encoding="utf-8") as file:
            return not _try_to_lock(file)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < YOUNG_S


def _try_to_lock(file: IO[str]) -> bool:
    import fcntl  # local sockets are for systems that have it

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
