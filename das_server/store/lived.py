# SPDX-License-Identifier: GPL-3.0-or-later
"""How long servers have run on a state folder, in all: what lifetimes go by, because nobody sets this clock."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from das_blender_addon.protocol.kinds import MAX_SECONDS

_log = logging.getLogger(__name__)

SEEN_SHARE = 1 / 200
"""Of a lifetime, how often the machine's clock is looked at."""


class LivedClock:
    """Seconds, kept in ``path`` from one server to the next; what a killed one did not `save` is lost.  ``clock``:
    seconds that nobody sets; ``wall``: Unix time, which is set now and then."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time):
        self._path, self._clock, self._wall = path, clock, wall
        self._began_s = clock()
        self._before_s = 0.0
        self._seen: list[tuple[float, float]] = []
        """(seconds lived, Unix time) now and then, oldest first."""
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            self._before_s = max(0.0, _seconds(about["lived_s"]))
            self._seen = [(_seconds(lived_s), _seconds(unix_s)) for lived_s, unix_s in about.get("seen", [])]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._before_s = 0.0
            _log.warning("%s cannot be read, so that finished jobs are kept longer: %s", path, error)

    def now(self) -> float:
        """Seconds that servers have run until now."""
        return self._before_s + self._clock() - self._began_s

    def unix_time_before(self, seconds: float) -> float:
        """A Unix time before that of whatever was touched in the last ``seconds``, both of those that passed and of
        those that servers ran, however the machine's clock was set meanwhile; -inf as long as none is known."""
        now, unix_s = self.now(), self._wall()
        if not self._seen or now - self._seen[-1][0] >= seconds * SEEN_SHARE:
            self._seen.append((now, unix_s))
        old = [i for i, (lived_s, _) in enumerate(self._seen) if lived_s <= now - seconds]
        if not old:
            return float("-inf")
        self._seen = self._seen[old[-1] :]
        return min(unix_s - seconds, *(one for _, one in self._seen))

    def save(self) -> None:
        """Keep it for the next server; a disk that refuses only makes lifetimes longer."""
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps({"lived_s": self.now(), "seen": self._seen}), encoding="utf-8")
            os.replace(part, self._path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error.strerror)


def _seconds(value: object) -> float:
    if type(value) not in (int, float) or not abs(value) <= MAX_SECONDS:
        raise ValueError(f"{str(value)[:40]} is no number of seconds")
    return float(value)
