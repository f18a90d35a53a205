# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands say: plain lines, or JSON lines, on stdout; why they failed on stderr.

Nobody may be listening (``| head -1``), and the other end may know fewer characters than we do: the work goes on, and
its status is that of the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict

from ..doctor import Check
from ..errors import DasError
from ..shot.findings import NOTE, Finding, ShotReport
from ..take.drive import Status


class Voice:
    """Says what happens."""

    def __init__(self, as_json: bool):
        self.as_json = as_json
        self._last = ""
        self._is_heard = True
        self._warned: set[Finding] = set()

    def status(self, status: Status) -> None:
        """A step of a running job; the same plain line is said once."""
        if self.as_json:
            self._json(
                {"event": "progress", "stage": status.stage, "text": status.text, "fraction": round(status.fraction, 4)}
            )
        elif status.text != self._last:
            self._last = status.text
            self._say(f"{status.fraction:4.0%}  {status.text}")

    def result(self, words: str, **values) -> None:
        """What came of it."""
        if self.as_json:
            self._json({"event": "done", **values})
        else:
            self._say(words)

    def note(self, words: str) -> None:
        """Something to know of it; "" is nothing."""
        if words and self.as_json:
            self._json({"event": "note", "text": words})
        elif words:
            self._say(words)

    def check(self, check: Check) -> None:
        """One line of the doctor."""
        if self.as_json:
            self._json({"event": "check", **asdict(check)})
        else:
            hint = f"\n      → {check.hint}" if check.hint else ""
            self._say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.words}{hint}")

    def finding(self, finding: Finding) -> None:
        """One thing to know of a shot."""
        if self.as_json:
            self._json({"event": "finding", **asdict(finding)})
            return
        objects = f" ({', '.join(finding.objects)})" if finding.objects else ""
        remedy = f"\n         → {finding.remedy}" if finding.remedy else ""
        self._say(f"{finding.level:7}  {finding.words}{objects}{remedy}")

    def warnings(self, report: ShotReport) -> None:
        """What speaks against a shot that is about to be sent, each finding once."""
        for finding in report.findings:
            if finding.level != NOTE and finding not in self._warned:
                self._warned.add(finding)
                self.finding(finding)

    def error(self, error: BaseException, exit_code: int) -> None:
        """Why it failed, on stderr; as JSON on stdout."""
        if self.as_json:
            code = error.code if isinstance(error, DasError) else "unexpected"
            self._json({"event": "error", "code": code, "message": str(error), "exit_code": exit_code})
        _complain(f"das: {error}")

    def _json(self, values: dict) -> None:
        self._say(json.dumps(values, default=os.fspath))

    def _say(self, line: str) -> None:
        """One line on stdout; from the first one that does not arrive on, none."""
        if not self._is_heard:
            return
        try:
            _print(line, sys.stdout)
        except (OSError, ValueError) as error:
            self._is_heard = False
            _let_go(sys.stdout)
            if not isinstance(error, BrokenPipeError):
                _complain(f"das: nothing more can be written to standard output ({error}); the work goes on.")


def _complain(line: str) -> None:
    """One line on stderr, where there is one that takes it."""
    try:
        _print(line, sys.stderr)
    except (OSError, ValueError):
        _let_go(sys.stderr)


def _print(line: str, stream) -> None:
    if stream is None:  # closed before the program began
        return
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _let_go(stream) -> None:
    """What is left in the buffer of ``stream`` goes nowhere, or the end of the process would stumble over it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
