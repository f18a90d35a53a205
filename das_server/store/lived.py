# SPDX-License-Identifier: GPL-3.0-or-later
"""How long servers have run on a state folder, in all: what lifetimes go by, because nobody sets this clock."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

_log = logging.getLogger(__name__)


class LivedClock:
    """Seconds, kept in ``path`` from one server to the next; what a killed one did not `save` is lost."""

    def __init__(self, path: Path):
        self._path = path
        self._began_s = time.monotonic()
        self._before_s = 0.0
        try:
            self._before_s = max(0.0, float(json.loads(path.read_text(encoding="utf-8"))["lived_s"]))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("%s cannot be read, so that finished jobs are kept longer: %s", path, error)

    def now(self) -> float:
        """Seconds that servers have run until now."""
        return self._before_s + time.monotonic() - self._began_s

    def save(self) -> None:
        """Keep it for the next server; a disk that refuses only makes lifetimes longer."""
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps({"lived_s": self.now()}), encoding="utf-8")
            os.replace(part, self._path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error.strerror)
