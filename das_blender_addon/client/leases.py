# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases: of several processes and machines that share a folder, one does a piece of work and the others wait for it.

    <folder>/<work>.3.lease       the third holder's; of several the highest number counts
    <folder>/<work>.<id>.waits    somebody who wants the result

Every file names its process and is touched every `BEAT_S` for as long as that lives.  A lease lapses when its process
is gone (on the same machine) or was silent for `LEASE_S`; then the first who can make the file with the next number
holds it.  Nobody ever writes or removes the lease of somebody who may live, ages are compared by the file server's own
clock, and files are opened to be looked at, so that a network file system does not answer from its cache.

A lease saves work, nothing rests on it: two who hold one both do the work, and its results are whole files.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import uuid
from pathlib import Path

LOGGER = logging.getLogger(__name__)
BEAT_S = 2.0
LEASE_S = 20.0
"""Well above `BEAT_S` and a busy network file system's delays."""


class Claim:
    """A file that says that this process lives; touched by a thread until it is released.  Without a path: nothing."""

    def __init__(self, path: Path | None):
        self.path = path
        self._released = threading.Event()
        if path is None:
            return
        with open(path, "x", encoding="utf-8") as file:
            json.dump({"host": _host(), "pid": os.getpid()}, file)
        threading.Thread(target=self._beat, name="das lease", daemon=True).start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Give it up; harmless when that was done before."""
        if self.path is not None and not self._released.is_set():
            self._released.set()
            _remove(self.path)

    def now(self) -> float:
        """The file server's time, seconds."""
        os.utime(self.path)
        return self.path.stat().st_mtime

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return
            except OSError as error:
                LOGGER.debug("the lease %s cannot be renewed: %s", self.path, error)


class Requester:
    """Somebody who wants the result of ``work`` in ``folder``, for as long as the context lasts.

    Where the folder cannot be written, everybody leads.
    """

    def __init__(self, folder: Path, work: str):
        self._folder, self._work = Path(folder), work
        self._here: Claim | None = None
        self._lease: Claim | None = None

    def __enter__(self) -> Requester:
        return self.enter()

    def __exit__(self, *_) -> None:
        self.leave()

    def enter(self) -> Requester:
        """What entering the context does."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._here = Claim(self._folder / f"{self._work}.{uuid.uuid4().hex[:12]}.waits")
        except OSError as error:
            LOGGER.info("no lease in %s: %s", self._folder, error)
        return self

    def leave(self) -> None:
        """Give everything up; harmless when that was done before."""
        for claim in (self._lease, self._here):
            if claim is not None:
                claim.release()

    def lead(self) -> Claim | None:
        """The lease on the work, held until it is released or the requester leaves; None while somebody else has it."""
        self._lease = self._next_lease()
        return self._lease

    def _next_lease(self) -> Claim | None:
        if self._here is None:
            return Claim(None)
        try:
            numbers = self._numbers()
            last = max(numbers, default=0)
            if last and _lives(numbers[last], self._here.now()):
                return None
            lease = Claim(self._folder / f"{self._work}.{last + 1}.lease")
        except FileExistsError:
            return None
        except OSError as error:
            LOGGER.info("no lease in %s: %s", self._folder, error)
            return Claim(None)
        for path in numbers.values():
            _remove(path)
        self.others_wait()  # which removes what the dead left
        return lease

    def is_led(self) -> bool:
        """Whether somebody holds the lease."""
        try:
            numbers = self._numbers()
            return bool(numbers) and self._here is not None and _lives(numbers[max(numbers)], self._here.now())
        except OSError:
            return False

    def is_led_from_here(self) -> bool:
        """Whether this very process holds the lease: waiting for it could be waiting for oneself."""
        try:
            numbers = self._numbers()
            said = json.loads(numbers[max(numbers)].read_text(encoding="utf-8"))
            return (said["host"], said["pid"]) == (_host(), os.getpid())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def others_wait(self) -> bool:
        """Whether somebody else wants the result."""
        if self._here is None:
            return False
        try:
            now = self._here.now()
            others = [path for path in self._paths(".waits") if path != self._here.path]
        except OSError:
            return False
        living = [path for path in others if _lives(path, now)]
        for path in set(others) - set(living):
            _remove(path)
        return bool(living)

    def _paths(self, suffix: str) -> list[Path]:
        start = f"{self._work}."
        names = [entry.name for entry in os.scandir(self._folder)]
        return [self._folder / name for name in names if name.startswith(start) and name.endswith(suffix)]

    def _numbers(self) -> dict[int, Path]:
        found = {}
        for path in self._paths(".lease"):
            number = path.name.split(".")[-2]
            if number.isdecimal():
                found[int(number)] = path
        return found


def _lives(path: Path, now: float) -> bool:
    """Whether the process that made ``path`` lives, as far as can be known; ``now``: the file server's time."""
    try:
        with open(path, encoding="utf-8") as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except OSError:
        return False
    if now - touched > LEASE_S:
        return False
    try:
        said = json.loads(text)
        if os.name != "posix" or said["host"] != _host():
            return True
        return _runs(int(said["pid"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # being written, or another user's process
        return True


def _runs(pid: int) -> bool:
    """Whether the process is there and more than an entry that nobody has read yet."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # a system without /proc, or gone between the two
        return os.path.isdir("/proc/self") is False


def _host() -> str:
    """This machine and, in containers, its set of process numbers."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        LOGGER.debug("%s stays: %s", path, error)
