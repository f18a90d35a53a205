# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of this machine's own memory can still be taken, on every system and within a container's limit."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

UNKNOWN_BYTES = 1 << 62
"""Said where the system does not tell: nothing is refused on a guess."""


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a process can take without swapping; `UNKNOWN_BYTES` where nobody knows.

    ``meminfo``, ``cgroup``: where Linux tells of the machine and, in a container, of the container's limit.
    """
    if sys.platform == "win32":
        return _available_on_windows()
    limit = _left_in_container(cgroup)
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(limit, int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):  # macOS knows the second only: all there is, free or not
        try:
            return min(limit, os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            continue
    return limit


def _left_in_container(cgroup: Path) -> int:
    """What a container (cgroup version 2) may still take; cached files count as free, because they can be dropped."""
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return UNKNOWN_BYTES
        lines = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(used) + int(lines.get("inactive_file", 0)))
    except (OSError, ValueError):
        return UNKNOWN_BYTES


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in ("total", "available", "total_page", "free_page", "total_virtual", "free_virtual", "free_extended")
    ]


def _available_on_windows() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return UNKNOWN_BYTES
    return status.available
