# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are whole or absent: written under another name, then renamed."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from ..errors import StorageError
from ..protocol.frames import blob_sha


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step, making its folder; never leaves a partial or empty file.

    Raises `StorageError` when the disk refuses, or when there is nothing to write.
    """
    if not content:
        raise StorageError(f"{path} would be empty; nothing was written: render it again.")
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; free some space or choose another folder."
        ) from error


def holds(path: Path, sha: str) -> bool:
    """Whether the file ``path`` is there and has the SHA-256 ``sha``."""
    try:
        return blob_sha(path.read_bytes()) == sha
    except OSError:
        return False


def folder_refusal(folder: Path) -> str:
    """Why no file can be written into ``folder``, in words; "" when nothing is in the way.

    It need not be there yet; where it is not, nothing is made.
    """
    try:
        if os.path.isdir(folder):
            with tempfile.TemporaryFile(dir=folder, prefix=".das-", suffix=".part"):
                return ""
        there = folder
        while not os.path.lexists(there):
            _stat(there)
            there = there.parent
        if not os.path.isdir(there):
            return f"{there} is no folder"
        return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} is not writable"
    except OSError as error:
        return error.strerror or str(error)


def _stat(path: Path) -> None:
    """Raise what the system says against ``path``, other than that it is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return
