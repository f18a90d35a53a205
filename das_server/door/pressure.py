# SPDX-License-Identifier: GPL-3.0-or-later
"""What all that waits to be read takes in memory, whoever sent it: also those who were cut, and came again.

ZeroMQ keeps what it has of a connection that ended until we read it, and a message of one byte takes it a hundred.  So
the memory of this process is looked at: what it has grown by since there was nothing to read, last.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import socket as sockets
import struct
import sys
import time
from collections.abc import Callable

from das_server.door.seldom import Seldom
from das_server.limits import MAX_WAITING_BYTES

_log = logging.getLogger(__name__)

_ATTACH_FILTER, _DETACH_FILTER = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER of Linux (asm-generic/socket.h)."""

_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of one instruction (linux/filter.h): return 0, the packet does not come."""


TRIM_EVERY_S = 0.5
"""Under pressure what was freed is given back this often; until then it counts."""


class Pressure:
    """``port``: where connections arrive; those that do under pressure are not taken, and try again by themselves.
    ``is_high``: more waits than may, or did a moment ago; ``level``: how many times as much."""

    def __init__(self, port: int, *, most_bytes: int = MAX_WAITING_BYTES):
        self._most_bytes = most_bytes
        self._listener = _listener_at(port)
        self._calm_bytes = _memory_bytes()
        self._trim_at_s = 0.0
        self._say = Seldom(_log)
        self.is_high, self.level = False, 0

    def close(self) -> None:
        """Let go of the port."""
        if self._listener is not None:
            self._listener.close()

    def look(self, nothing_waits: bool) -> None:
        """See how it is now; ``nothing_waits`` to be read."""
        if self.is_high and (nothing_waits or time.monotonic() >= self._trim_at_s):
            self._trim_at_s = time.monotonic() + TRIM_EVERY_S
            trim = _trim()
            if trim is not None:
                trim(0)
        grown = _memory_bytes() - self._calm_bytes
        self.level = max(0, grown // self._most_bytes)
        if self.is_high and (nothing_waits or grown < self._most_bytes // 2):
            self.is_high = False
            self._take_connections(True)
        elif not self.is_high and grown > self._most_bytes and not nothing_waits:
            self.is_high = True
            self._take_connections(False)
            self._say(logging.WARNING, "%d MiB wait to be read; no connection is taken until less does", grown >> 20)
        if nothing_waits:
            self._calm_bytes += grown

    def _take_connections(self, yes: bool) -> None:
        if self._listener is None:
            return
        instructions = ctypes.create_string_buffer(_DROP_ALL)
        program = struct.pack("HP", 1, ctypes.addressof(instructions))  # struct sock_fprog
        with contextlib.suppress(OSError):  # then they are taken, and cut
            if yes:
                self._listener.setsockopt(sockets.SOL_SOCKET, _DETACH_FILTER, 0)
            else:
                self._listener.setsockopt(sockets.SOL_SOCKET, _ATTACH_FILTER, program)


def _listener_at(port: int) -> sockets.socket | None:
    """The socket of this process that listens at a TCP port, by a number of our own; None where the system does not
    say."""
    for name in os.listdir("/proc/self/fd") if sys.platform.startswith("linux") else ():
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue  # to close a second number of a file would let go of this process's locks on it
            one = sockets.socket(fileno=os.dup(int(name)))
        except OSError:  # closed meanwhile
            continue
        with contextlib.suppress(OSError):
            is_tcp = one.family in (sockets.AF_INET, sockets.AF_INET6)
            if is_tcp and one.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN) and one.getsockname()[1] == port:
                return one
        one.close()
    return None


def _memory_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """``malloc_trim`` of glibc, which gives back what was freed; None where there is none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
