# SPDX-License-Identifier: GPL-3.0-or-later
"""One server per state folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import IO

from das_blender_addon.errors import SettingsError, StorageError

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs", "fuse.glusterfs"}
"""File systems on which neither locks nor SQLite's write-ahead log can be relied on (sqlite.org/wal.html)."""

MOUNTS = Path("/proc/self/mounts")


def lock_state(folder: Path) -> IO[str]:
    """Make ``folder`` and lock it for this process until the returned file is closed or the process ends.

    Raises `SettingsError` if another server uses it or it is on a network's disk, `StorageError` if it cannot be
    written.
    """
    path = folder / "server.lock"
    kind = kind_of_disk(folder)
    if kind in NETWORK:
        raise SettingsError(
            f"The state folder {folder} is on a network's disk ({kind}), where a list of jobs is not safe; choose a "
            "--state on a disk of this machine.",
            field="state",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # pictures and prompts are their owner's
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 — stays open as long as the lock is held
    except OSError as error:
        raise StorageError(f"The state folder {folder} cannot be written: {error.strerror}.") from error
    try:
        lock_file(file)
    except OSError as error:
        file.seek(0)
        owner = file.read(32).strip()
        file.close()
        process = f" (process {owner})" if owner.isdecimal() else ""
        raise SettingsError(
            f"Another server{process} already uses the state folder {folder}; stop it or choose another --state.",
            field="state",
        ) from error
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def kind_of_disk(folder: Path) -> str:
    """The file system of ``folder``, or of what it will be made in; "" where the system does not say."""
    try:
        lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    place = folder.resolve()
    found = {_unescaped(line[1]): line[2] for line in lines if len(line) > 2}
    return next((found[str(one)] for one in (place, *place.parents) if str(one) in found), "")


def _unescaped(mount: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount)


def lock_file(file: IO) -> None:
    """Lock an open file until it is closed; raises `OSError` where another process has it."""
    if os.name == "nt":
        import msvcrt

        file.seek(1 << 20)  # a byte far behind the process id, which stays readable
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
