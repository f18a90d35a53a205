# SPDX-License-Identifier: GPL-3.0-or-later
"""The log that commits of the job list go to first (SQLite's WAL mode), and when it is on disk.

A commit is written without waiting for the disk; whoever promises something by it waits for `WriteAheadLog.flush`,
which any thread may call while the job list goes on: all commits until then are on disk with one flush.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from das_server.store.blobs import storage_errors

BUSY_MS = 50
"""How long a commit waits for another program that has the list open and changes it."""

LARGE_BYTES = 4 << 20
"""From here on the log is brought into the list itself, so that it begins anew."""


class WriteAheadLog:
    """Of the open job list ``db`` in ``path``, which from now on never waits for a disk, nor long for a program."""

    def __init__(self, path: Path, db: sqlite3.Connection):
        self._list, self._path = path, Path(f"{path}-wal")
        self._written = self._flushed = 0
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        db.execute("PRAGMA synchronous = NORMAL")  # no flush at a commit …
        db.execute("PRAGMA wal_autocheckpoint = 0")  # … nor now and then
        db.execute(f"PRAGMA journal_size_limit = {LARGE_BYTES}")  # what begins anew is small, too

    @property
    def is_behind(self) -> bool:
        """Whether something was committed that the next loss of power may take away."""
        return self._flushed < self._written

    def note_commit(self) -> None:
        """Something was committed that should last."""
        self._written += 1

    def flush(self) -> None:
        """Return when all that was committed before is on disk.  Raises `StorageError`."""
        written = self._written
        if self._flushed >= written:
            return
        with storage_errors(f"its job list {self._list}"):
            log = os.open(self._path, os.O_RDWR)
            try:
                os.fsync(log)
                size_bytes = os.fstat(log).st_size
            finally:
                os.close(log)
        self._flushed = max(self._flushed, written)
        if size_bytes > LARGE_BYTES:
            self._bring_in()

    def _bring_in(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it is in use, or the disk is full: later
            with contextlib.closing(sqlite3.connect(self._list, timeout=0.0)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
