# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints that were compared with their manifests before, so that no load reads all of their files for that.

A note per folder holds the looks of its files: name, size, times, inode.  A file that was written since looks
different, and is read again, with all others.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from .checkpoint import MANIFEST_NAME, verify_folder
from .registry import default_models_folder
from .revision import fingerprint

log = logging.getLogger(__name__)


def default_notes() -> Path:
    """Where notes are kept unless somebody says otherwise: beside the models folder."""
    return default_models_folder().parent / "verified"


def verify_unless_known(folder: Path, notes: Path | None = None, files: list[Path] | None = None) -> bool:
    """`checkpoint.verify_folder`, unless nothing in ``folder`` has changed since it passed → whether files were read.

    ``notes``: the folder for notes.  ``files``: relative ones, of what is no checkpoint.  Raises `ModelError` as
    `verify_folder`.
    """
    note = (notes or default_notes()) / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.txt"
    look = _look(folder)
    try:
        if note.read_text(encoding="ascii").strip() == look:
            return False
    except (OSError, UnicodeDecodeError):
        pass  # not verified yet
    report = verify_folder(folder, files=files)
    log.info("%s: %s files verified", folder, report.num_files)
    if _look(folder) == look:  # else somebody wrote meanwhile, and nobody knows before which file
        _write(note, look)
    return True


def _look(folder: Path) -> str:
    stat = (folder / MANIFEST_NAME).stat()
    parts = [fingerprint(folder), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return "-".join(str(part) for part in parts)


def _write(note: Path, look: str) -> None:
    draft = note.with_suffix(f".{os.getpid()}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(look + "\n", encoding="ascii")
        os.replace(draft, note)
    except OSError as error:  # the files are read once more with the next load
        log.warning("%s cannot be written: %s", note, error.strerror)
