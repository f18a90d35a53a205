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

import zmq

_log = logging.getLogger(__name__)

PREFIX = "das-server-"
LOCK = "lock"
LONGEST_NAME = 100
"""The longest name that every platform gives a local socket."""

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


def bind_local(socket: zmq.Socket, path: Path) -> tuple[str, SocketFolder | None]:
    """Bind to ``path`` for this user only, or to one in a folder of its own where that is too long → (the address,
    that folder).  Systems without local sockets use a loopback port."""
    if os.name == "nt":
        socket.bind("tcp://127.0.0.1:*")
        return socket.getsockopt_string(zmq.LAST_ENDPOINT), None
    folder = None
    if len(os.fsencode(path)) > LONGEST_NAME:
        folder = SocketFolder()
        path = folder.path / path.name
    socket.bind(f"ipc://{path}")
    path.chmod(0o600)
    return f"ipc://{path}", folder


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
