# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes of kernels, of attention and float8, that broke a device: what must not be tried there again.

One small text file per kernel, device and version of PyTorch, in a folder that outlives the process, because an error
that breaks a device takes the process with it.  Its name says what for, its text why; who removes it has the kernel
tried again.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

log = logging.getLogger(__name__)


def note_of(folder: Path | None, backend: str, device_name: str) -> Path | None:
    """The file that forbids ``backend``, an attention kernel or float8, on a device of this name with this PyTorch,
    there or not; None without a folder."""
    if folder is None:
        return None
    words = (backend, device_name, f"torch {torch.__version__}")
    return folder / ("-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in words) + ".txt")


def write_note(note: Path | None, reason: str) -> None:
    """Keep ``reason``, one line; a disk that refuses is logged and not raised."""
    if note is None:
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(reason + "\n", encoding="utf-8")
    except OSError as error:
        log.warning("%s cannot be written: %s", note, error)
