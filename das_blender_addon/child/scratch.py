# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of this extension in the temporary folder, and the sweeping of those whose owner was killed.

An owner holds a lock on a file in its folder, which the system lets go when it dies, however it dies.  No Blender in
here.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from ..errors import StorageError

LOGGER = logging.getLogger(__name__)
KINDS = ("child", "copy", "geometry", "clip", "compare")
"""Folders are called ``das-<kind>-…``."""
LOCK = "owner"
_open: weakref.WeakSet[Scratch] = weakref.WeakSet()
UNLOCKED_S = 3600.0
"""A folder without a lock, as earlier versions made them, is swept when nothing touched it for this long."""


class Scratch:
    """A folder of its own, as `tempfile.TemporaryDirectory`, that says that its owner lives.

    ``kind``: one of `KINDS`.  Raises `StorageError` when there is no room for it.
    """

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise ValueError(f"a folder of the kind {kind!r} would never be swept; use one of {', '.join(KINDS)}")
        sweep()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix=f"das-{kind}-", ignore_cleanup_errors=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(
                f"The temporary folder {tempfile.gettempdir()} cannot be written to ({reason}); free some space there."
            ) from error
        self.name = self._folder.name
        self.kind, self._lock = kind, _hold(Path(self.name) / LOCK)
        _open.add(self)

    def cleanup(self) -> None:
        """Remove it."""
        _open.discard(self)
        self._lock.close()
        self._folder.cleanup()


def held_bytes(kind: str) -> int:
    """What the folders of ``kind`` of this process hold on the disk."""
    total = 0
    for folder in [one.name for one in list(_open) if one.kind == kind]:
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(root, name)).st_size
                except OSError:  # it goes while it is looked at
                    continue
    return total


def sweep() -> None:
    """Remove the folders that killed processes of this user left."""
    left = [folder for kind in KINDS for folder in Path(tempfile.gettempdir()).glob(f"das-{kind}-*")]
    for folder in left:
        try:
            if folder.is_dir() and not folder.is_symlink() and _is_ours(folder) and _is_left(folder):
                shutil.rmtree(folder)
                LOGGER.info("removed %s, which a Blender that was killed had left", folder)
        except OSError as error:
            LOGGER.debug("%s stays: %s", folder, error)


def _is_ours(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _is_left(folder: Path) -> bool:
    """Whether nobody holds the folder's lock."""
    try:
        with open(folder / LOCK, "r+b") as file:
            return _lock(file)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > UNLOCKED_S
    except PermissionError:
        return False


def _hold(path: Path):
    """The file ``path``, open and locked from the moment at which it is there: a sweep may come at any time."""
    if os.name == "nt":  # where an open file cannot be renamed, nor deleted
        file = open(path, "wb")  # noqa: SIM115  (held until the folder goes)
        _lock(file)
        return file
    new = path.with_suffix(".new")
    file = open(new, "wb")  # noqa: SIM115
    _lock(file)
    new.rename(path)
    return file


def _lock(file) -> bool:
    """Lock ``file`` until it is closed; False when somebody else has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
