# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiler's kernels, kept between starts, within bounds.  Never imports torch.

PyTorch finds them by their content and its own version, makes anew what is missing, and removes none by itself.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

FOLDER = "compiled"
"""In the state folder."""

MOST_BYTES = 4 << 30
LONGEST_UNUSED_S = 30 * 86400.0


@dataclass(frozen=True)
class Kept:
    """``num_files`` and ``size_bytes`` of what is there."""

    num_files: int
    size_bytes: int


def prune(
    folder: Path,
    *,
    most_bytes: int = MOST_BYTES,
    unused_s: float = LONGEST_UNUSED_S,
    now_s: float | None = None,
) -> Kept:
    """Remove what nobody read or wrote for ``unused_s`` and, where more than ``most_bytes`` are left, what was used
    longest ago → what is kept.  Files that another process removes or holds are passed over."""
    now_s = time.time() if now_s is None else now_s
    files = sorted(_files(folder), reverse=True)  # the last used first
    kept_files = kept_bytes = freed_bytes = 0
    for used_s, size_bytes, path in files:
        if now_s - used_s <= unused_s and kept_bytes + size_bytes <= most_bytes:
            kept_files, kept_bytes = kept_files + 1, kept_bytes + size_bytes
        elif _remove(path):
            freed_bytes += size_bytes
    if freed_bytes:
        for parent, _, _ in os.walk(folder, topdown=False):
            if Path(parent) != folder:
                _remove_empty(Path(parent))
        _log.info("%s: %.0f MB of compiled kernels removed, %.0f MB kept", folder, freed_bytes / 1e6, kept_bytes / 1e6)
    return Kept(kept_files, kept_bytes)


def measure(folder: Path) -> Kept:
    """What is there."""
    sizes = [size_bytes for _, size_bytes, _ in _files(folder)]
    return Kept(len(sizes), sum(sizes))


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """(When it was used last, bytes, path) of each."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            try:
                stat = path.lstat()
            except OSError:
                continue
            found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    return found


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # something is in it, or it is gone
        return
