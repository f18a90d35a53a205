# SPDX-License-Identifier: GPL-3.0-or-later
"""How processes ended: of what they did themselves, or because somebody else ended them.  No torch.

A server leaves three traces in its state folder: that it was asked to end (`CLEAN`), what it died of (`CRASH`: a
signal of its own making, by `faulthandler`, or an exception), and the machine's counts at its start (`START`).  One
that left neither of the first two, on a machine that has not started anew nor run out of memory since, was killed from
outside: no job has a part in that.
"""

from __future__ import annotations

import enum
import faulthandler
import json
import logging
import signal
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)

CLEAN, CRASH, START = "ended_cleanly", "crash.txt", "last_start.json"

_OUTSIDE = {-number for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM))}
"""Exit statuses of a process that only somebody else ends so, where the system says so at all."""


class Ending(enum.Enum):
    """How a server ended: asked to, killed from outside, or of something that a job of it may have done."""

    CLEAN = "clean"
    KILLED = "killed"
    DIED = "died"


class Life:
    """The traces of one server in ``state``, from its start on."""

    def __init__(self, state: Path):
        self._state = state
        self.last = how_the_last_ended(state)
        """How the server before this one ended."""
        self._crash: IO[str] | None = None
        try:
            (state / CLEAN).unlink(missing_ok=True)
            self._crash = open(state / CRASH, "w", encoding="utf-8")  # noqa: SIM115 — open until the end
            (state / START).write_text(json.dumps(_counts()), encoding="utf-8")
            faulthandler.enable(self._crash)
        except OSError as error:
            _log.warning("how this server ends cannot be noted in %s: %s", state, error.strerror)

    def note_end(self, error: BaseException | None = None) -> None:
        """The server ends, because it was asked to, or of ``error``."""
        try:
            if error is None:
                (self._state / CLEAN).touch()
            elif self._crash is not None:
                self._crash.write(f"{type(error).__name__}: {error}\n")
                self._crash.flush()
        except OSError as problem:  # its running jobs count as lost once
            _log.warning("the end of this server cannot be noted in %s: %s", self._state, problem.strerror)
        finally:
            if self._crash is not None:
                faulthandler.disable()
                self._crash.close()


def was_ended_by_others(status: int, oom_kills_before: int | None) -> bool:
    """Whether a process with this exit status (negative: a signal) was ended by somebody else, and not because the
    machine ran out of memory since `oom_kills` was asked last.  False where that is not known."""
    return status in _OUTSIDE and oom_kills_before is not None and oom_kills() == oom_kills_before


def oom_kills() -> int | None:
    """How many processes this machine has killed for want of memory, None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def how_the_last_ended(state: Path) -> Ending:
    """By the traces of the last server on ``state``."""
    if (state / CLEAN).exists():
        return Ending.CLEAN
    try:
        before: Any = json.loads((state / START).read_text(encoding="utf-8"))
        has_crashed = (state / CRASH).stat().st_size > 0
    except (OSError, ValueError):
        return Ending.DIED
    return Ending.KILLED if not has_crashed and before == _counts() and before["oom_kills"] is not None else Ending.DIED


def _counts() -> dict[str, Any]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return {"boot": boot, "oom_kills": oom_kills()}
