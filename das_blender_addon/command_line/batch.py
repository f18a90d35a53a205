# SPDX-License-Identifier: GPL-3.0-or-later
"""``das batch``: a table of shots, one render for each row, told row by row and once more at the end."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import JobCancelled, SettingsError
from ..jobs.shots import SceneShot
from ..take.variation_table import cells_of

FILE = "file"
MOST = 10_000
"""Rows of a table."""


@dataclass(frozen=True)
class Row:
    """A row of the table: its ``number`` (from 1 on, the heading not counted), and the words of its ``das render``."""

    number: int
    words: tuple[str, ...]


def read_rows(path: Path, flags: frozenset[str], switches: frozenset[str]) -> list[Row]:
    """The rows of the CSV ``path``: columns ``file`` and names of flags of ``das render`` without their dashes.

    ``switches``: flags without a value; 1, yes and true say them.  Paths are relative to the table.  Raises
    `SettingsError` for all that cannot be a render, before anything is rendered.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as table:
            lines = cells_of(table.read())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"The table {path} cannot be read: {reason}.", field="file") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise SettingsError(f"The table {path} has no rows; its first line names the columns.", field="file")
    if len(lines) > MOST + 1:
        raise SettingsError(f"The table {path} has {len(lines) - 1} rows, more than {MOST}; split it.", field="file")
    columns = [cell.strip().lower().lstrip("-").replace("_", "-") for cell in lines[0]]
    unknown = next((name for name in columns if name != FILE and f"--{name}" not in flags | switches), None)
    if FILE not in columns or unknown is not None:
        wrong = f"has no column {FILE}" if unknown is None else f"has a column {unknown!r}"
        names = ", ".join(sorted(flag[2:] for flag in flags | switches))
        raise SettingsError(f"The table {path} {wrong}; there are {FILE}, {names}.", field="file")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"The table {path} has the column {twice!r} twice; keep one of them.", field="file")
    rows = []
    for number, line in enumerate(lines[1:], 1):
        if len(line) > len(columns):
            raise SettingsError(f"Row {number} of {path} has more cells than there are columns.", field="file")
        rows.append(Row(number, _words(number, dict(zip(columns, line, strict=False)), path, switches)))
    return rows


def rows_of_shots(file: Path, shots: Sequence[SceneShot], output: Path | None) -> list[Row]:
    """A row for each of the ``shots`` of the .blend ``file``; each has a folder of its own in ``output``."""
    rows, folders = [], set()
    for number, shot in enumerate(shots, 1):
        frames = shot.settings.frames
        step = frames[1] - frames[0] if len(frames) > 1 else 1
        words = [str(file), f"--scene={shot.scene}", f"--frames={frames[0]}-{frames[-1]}x{step}"]
        words += [f"--camera={shot.settings.camera}"] if shot.settings.camera else []
        keys, first = shot.settings.key_pictures, shot.settings.first
        if keys is not None:
            words.append(f"--key-pictures={','.join(str(key.frame) for key in keys) or 'first'}")
        if not (first.path or first.image):
            words.append("--first-frame=auto")
        if output is not None:
            name = re.sub(r"[^\w.-]+", "_", shot.name if shot.name == shot.scene else f"{shot.scene}-{shot.name}")
            name = name if name.strip(".") else f"shot_{number}"
            name = f"{name}-{number}" if name.lower() in folders else name
            folders.add(name.lower())
            words.append(f"--output={output / name}")
        rows.append(Row(number, tuple(words)))
    return rows


def _words(number: int, cells: dict[str, str], path: Path, switches: frozenset[str]) -> tuple[str, ...]:
    file = cells.pop(FILE, "").strip()
    if not file:
        raise SettingsError(f"Row {number} of {path} names no {FILE}.", field="file")
    words = [str(path.parent / file)]
    for name, cell in cells.items():
        value = cell.strip()
        if f"--{name}" in switches:
            if value.lower() in ("1", "yes", "true"):
                words.append(f"--{name}")
        elif value:
            if name in ("output", "cache", "first-frame", "blend") and not value.startswith("//") and value != "auto":
                value = str(path.parent / value)
            words += [f"--{name}={value}"]
    return tuple(words)


def run_rows(
    rows: list[Row], run: Callable[[list[str]], int], tell: Callable[[Row], None], shared: list[str]
) -> tuple[int, list[dict]]:
    """Run every row; (the status of the first one that failed or 0, what is to be told of each).

    A row that fails does not keep the others from being rendered; a cancel does.
    """
    status, told = 0, []
    for row in rows:
        tell(row)
        began = time.monotonic()
        code = run([*row.words, *shared])
        told.append({"row": row.number, "file": row.words[0], "exit_code": code, "seconds": time.monotonic() - began})
        status = status or code
        if code == JobCancelled.exit_code:
            break
    return status, told
