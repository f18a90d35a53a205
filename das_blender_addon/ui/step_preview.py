# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of the running job's last step, as a file that a panel can show: one of this process alone, gone when the
job is over.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from ..shot.machine import user_folder

LOGGER = logging.getLogger(__name__)
LEFT_BEHIND_S = 86400.0
"""A picture of this age belongs to a Blender that was killed: no job shows one for so long."""

_shown: Path | None = None


def preview_path() -> Path | None:
    """The picture of the running job's last step, or None."""
    return _shown


def show_preview(picture: bytes) -> None:
    """Show ``picture`` (JPEG or PNG); a disk that refuses is logged, as a job needs no preview."""
    global _shown
    suffix = ".jpg" if picture[:2] == b"\xff\xd8" else ".png"
    try:
        path = user_folder("previews") / f"{_name()}{suffix}"
        path.write_bytes(picture)
    except OSError as error:
        LOGGER.warning("The step preview cannot be written: %s", error)
    else:
        _shown = path


def forget_preview() -> None:
    """No step is shown any more: its file goes, and those that Blenders left which were killed."""
    global _shown
    _shown = None
    try:
        files = list(user_folder("previews").glob("step*"))
    except OSError:  # then there is nothing to sweep
        return
    for file in files:
        if file.stem == _name() or _is_left_behind(file):
            file.unlink(missing_ok=True)


def _name() -> str:
    return f"step-{os.getpid()}"


def _is_left_behind(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime > LEFT_BEHIND_S
    except OSError:  # another Blender was first
        return False
