# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scripts tell whoever waits: one line per station, with a bar while it lasts and its seconds at the end; and
commands whose words are only seen when they fail.  Needs only the standard library of any Python 3.9 or newer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BAR_CELLS = 24
REDRAW_S = 0.1


class Station:
    """One step of a script, `with Station("making coffee") as station: station.progress(0.5, "grinding")`.

    On a terminal its line is drawn anew as it goes on; elsewhere it grows by a number for each tenth.
    """

    def __init__(self, text: str, stream=None):
        self._text = f"── {text}"
        self._stream = stream or sys.stdout
        self._on_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn_at = 0.0
        self._tenths = 0

    def __enter__(self) -> Station:
        self._write(self._text)
        return self

    def __exit__(self, kind, *_) -> None:
        words = f" ({self._seconds:.0f} s)" if kind is None else ""
        self._write(f"\r\033[K{self._text}{words}\n" if self._on_terminal else f"{words}\n")

    def progress(self, fraction: float, note: str = "") -> None:
        """How much is done, 0 to 1, and what is being done."""
        fraction = min(max(fraction, 0.0), 1.0)
        if not self._on_terminal:
            if int(10 * fraction) > self._tenths:
                self._tenths = int(10 * fraction)
                self._write(f" {10 * self._tenths}%")
            return
        if time.monotonic() < self._drawn_at + REDRAW_S:
            return
        self._drawn_at = time.monotonic()
        cells = round(fraction * BAR_CELLS)
        bar = "█" * cells + "░" * (BAR_CELLS - cells)
        line = f"{self._text} {bar} {100 * fraction:3.0f} % {self._seconds:3.0f} s  {note}"
        self._write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])

    def say(self, text: str) -> None:
        """A line of its own, for what nobody should miss."""
        self._write(f"\r\033[K   {text}\n{self._text}" if self._on_terminal else f"\n   {text}\n{self._text}")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Quiet:
    """A command in the background whose words go to a file and are seen when it fails."""

    def __init__(self, command: list, log: Path, **options):
        self.command = [str(word) for word in command]
        self._log = log
        self._began_at = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT, **options)

    def words(self) -> str:
        """What it has said, without the warnings where there is anything else."""
        with self._log.open("rb") as file:
            file.seek(self._began_at)
            lines = file.read().decode(errors="replace").splitlines()
        told = [line for line in lines if line.strip() and not line.startswith("WARNING:")]
        return "\n".join(told or lines)
