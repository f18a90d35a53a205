# SPDX-License-Identifier: GPL-3.0-or-later
"""What a local server leaves in its state folder: its log, of bounded size, and its address, by which another Blender
of the same user finds it.  No Blender in here.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

LOGGER = logging.getLogger(__name__)
LOG_LIMIT_BYTES = 4_000_000


class BoundedLog:
    """A text file that is appended to; when it has ``limit_bytes`` it becomes ``….old.log``, of which there is one."""

    def __init__(self, path: Path, *, limit_bytes: int = LOG_LIMIT_BYTES):
        self._path = path
        self._old_path = path.with_suffix(f".old{path.suffix}")
        self._limit_bytes = limit_bytes
        self._file = open(path, "ab")  # noqa: SIM115 — open as long as its server runs

    def write(self, text: str) -> None:
        """Append ``text``; who follows the file sees it at once."""
        line = text.encode("utf-8", "replace")
        if self._file.tell() and self._file.tell() + len(line) > self._limit_bytes:
            self._begin_anew()
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Nothing more will be written."""
        self._file.close()

    def _begin_anew(self) -> None:
        self._file.close()
        try:
            os.replace(self._path, self._old_path)
        except OSError as error:  # somebody reads it on Windows: then its beginning is lost, not its bound
            LOGGER.info("%s is not kept: %s", self._path, error)
            self._file = open(self._path, "wb")  # noqa: SIM115
            return
        self._file = open(self._path, "ab")  # noqa: SIM115


def note_address(state_folder: Path, address: str) -> None:
    """Say where the server of ``state_folder`` listens."""
    try:
        (state_folder / "address").write_text(f"{address}\n", encoding="utf-8")
    except OSError as error:  # only another Blender would have read it
        LOGGER.warning("The address of the local server cannot be noted: %s", error)


def noted_address(state_folder: Path) -> str:
    """Where the server of ``state_folder`` listens, as far as it is noted; "" where it is not."""
    try:
        return (state_folder / "address").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def forget_address(state_folder: Path, address: str) -> None:
    """The server at ``address`` has ended; the note of another one stays."""
    if noted_address(state_folder) == address:
        (state_folder / "address").unlink(missing_ok=True)
