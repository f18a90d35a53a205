# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as they come, kept after each one: a run that is cut off has left all it knew, as JSON and as a table."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure.  ``aim``: what it should be, in words; ``note``: what else is to be known."""

    name: str
    value: float
    unit: str
    aim: str = ""
    note: str = ""


@dataclass
class Record:
    """``path``: the JSON; the table of docs/benchmarks.md lies beside it, with the ending .md.  ``about``: of the
    machine, its programs, the model."""

    path: Path
    about: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    finished: bool = False

    def put(self, name: str, value: float, unit: str, *, aim: str = "", note: str = "") -> float:
        """Keep and print one figure."""
        row = Row(name, value, unit, aim, note)
        self.rows.append(row)
        self.save()
        print(f"  {name:<52}{value:>12.4g} {unit:<10}{aim}{'; ' if aim and note else ''}{note}", flush=True)
        return value

    def leave_out(self, name: str, reason: str) -> None:
        """Say why something has no figure."""
        self.left_out[name] = reason
        self.save()
        print(f"  {name:<52}{'–':>12} {reason}", flush=True)

    def save(self) -> None:
        """Write both files, whole."""
        content = {"about": self.about, "finished": self.finished, "rows": [asdict(row) for row in self.rows]}
        _replace(self.path, json.dumps(content | {"left_out": self.left_out}, indent=1) + "\n")
        _replace(self.path.with_suffix(".md"), self.table())

    def table(self) -> str:
        """The figures as docs/benchmarks.md shows them."""
        lines = [", ".join(self.about.values()) + ("" if self.finished else " (broken off)") + ".", ""]
        lines += ["| | measured | aim |", "|---|---|---|"]
        for row in self.rows:
            note = f" ({row.note})" if row.note else ""
            lines.append(f"| {row.name} | {row.value:.4g} {row.unit}{note} | {row.aim or '–'} |")
        lines += [f"| {name} | – ({reason}) | – |" for name, reason in self.left_out.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Part:
    """Something to measure.  ``expected_s``: how long it takes on the machine that the limit is made for."""

    name: str
    expected_s: float
    measure: Callable[[], None]


def run_parts(
    parts: list[Part], record: Record, *, limit_s: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """One part after the other; those that the limit leaves no time for are left out, and so is what fails."""
    ends = clock() + limit_s
    for part in parts:
        left = ends - clock()
        if left < part.expected_s:
            record.leave_out(part.name, f"{max(0.0, left):.0f} s were left and it takes about {part.expected_s:.0f} s")
            continue
        try:
            part.measure()
        except Exception as error:  # what one device cannot do says nothing of the next figure
            first = (str(error).splitlines() or ["no message"])[0][:160]
            record.leave_out(part.name, f"{type(error).__name__}: {first}")
    record.finished = True
    record.save()


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
