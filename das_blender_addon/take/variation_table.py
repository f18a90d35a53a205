# SPDX-License-Identifier: GPL-3.0-or-later
"""Variations as a table: a CSV file, or a text with the same content.  No Blender in here.

The first line names the columns, of `COLUMNS`, in any order; each further line is a variation, or one for each of its
seeds.  An empty cell is what is chosen beside the table, else the scene's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import SettingsError
from ..protocol.kinds import MAX_PROMPT
from ..shot.resolved import ResolvedSettings
from .variations import MOST, combinations, parse_seeds, prompts_of

COLUMNS = ("prompt", "negative prompt", "seed", "guidance", "steps")
"""``seed``: 7, 1-4 or 3,9,12-14."""
MOST_STEPS = 1000


def is_table(text: str) -> bool:
    """Whether the first line of ``text`` names columns, and nothing else."""
    heading = next(iter(_lines(text)), [])
    return bool(heading) and all(_name(cell) in COLUMNS for cell in heading)


def read_text(path: Path) -> str:
    """What the file holds.  Raises `SettingsError` where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"The file {path} cannot be read: {reason}.", field="prompt") from error


def variations_of(
    text: str,
    settings: ResolvedSettings,
    seeds: Sequence[int] = (),
    guidances: Sequence[float] = (),
    *,
    name: str,
    only_table: bool = False,
) -> list[ResolvedSettings]:
    """``settings`` for each variation that ``text`` says: a table (`rows_of`), or else a prompt in each line, each with
    all ``seeds`` and ``guidances``.

    Raises `SettingsError`, as `rows_of` does where it is ``only_table``.
    """
    if only_table or is_table(text):
        return rows_of(text, settings, seeds, guidances, name=name)
    prompts = prompts_of(text)
    if not prompts:
        raise SettingsError(f"There is no prompt in {name}; write one in each line.", field="prompt")
    return combinations(settings, seeds, prompts, guidances)


def rows_of(
    text: str,
    settings: ResolvedSettings,
    seeds: Sequence[int] = (),
    guidances: Sequence[float] = (),
    *,
    name: str = "The table",
) -> list[ResolvedSettings]:
    """``settings`` for each variation of the table ``text``, in its order; ``seeds`` and ``guidances`` are for rows
    that name none.  ``name`` begins its refusals.

    Raises `SettingsError`: no table, no rows, a column twice, a cell that cannot be read, more than `variations.MOST`.
    """
    if not is_table(text):
        raise SettingsError(
            f"{name} does not name its columns: its first line is of {', '.join(COLUMNS)}.", field="prompt"
        )
    heading, *lines = _lines(text)
    columns = [_name(cell) for cell in heading]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise SettingsError(f"{name} has the column {twice!r} twice; keep one of them.", field="prompt")
    if not lines:
        raise SettingsError(f"{name} has no rows; each line after the first is a variation.", field="prompt")
    found: list[ResolvedSettings] = []
    for number, line in enumerate(lines, 1):
        if len(line) > len(columns):
            raise SettingsError(f"{name} has more cells in row {number} than columns.", field="prompt")
        try:
            found += _row(dict(zip(columns, line, strict=False)), settings, seeds, guidances)
        except SettingsError as error:
            raise SettingsError(f"{name}, row {number}: {error.message}", field=error.field) from error
        if len(found) > MOST:
            raise SettingsError(f"{name} has more than {MOST} variations; make them in several goes.", field="seed")
    return found


def _row(cells: dict[str, str], settings: ResolvedSettings, seeds, guidances) -> list[ResolvedSettings]:
    said = {column: cell.strip() for column, cell in cells.items() if cell.strip()}
    long = next((column for column in ("prompt", "negative prompt") if len(said.get(column, "")) > MAX_PROMPT), None)
    if long is not None:
        count = len(said[long])
        raise SettingsError(f"The {long} has {count} characters; it takes {MAX_PROMPT} at most.", field="prompt")
    prompts = (said["prompt"],) if "prompt" in said else ()
    settings = replace(settings, negative_prompt=said.get("negative prompt", settings.negative_prompt))
    if "steps" in said:
        settings = replace(settings, steps=int(_number(said["steps"], "steps", MOST_STEPS)))
    if "guidance" in said:
        guidances = (_number(said["guidance"], "guidance", None),)
    return combinations(settings, parse_seeds(said.get("seed", "")) or seeds, prompts, guidances)


def _number(cell: str, column: str, most: int | None) -> float:
    """``most``: of a whole number from 0 on; None for any number."""
    try:
        value = float(cell)
        if most is None or value == int(value) and 0 <= value <= most:
            return value
    except (ValueError, OverflowError):
        pass
    wanted = "a number" if most is None else f"a whole number from 0 to {most}"
    raise SettingsError(f"{cell!r} is no {column}; write {wanted}.", field=column)


def _lines(text: str) -> list[list[str]]:
    """The lines that are neither empty nor begin with #; columns parted by commas, semicolons or tabs."""
    try:
        lines = cells_of(text)
    except csv.Error as error:
        raise SettingsError(f"The table cannot be read: {error}.", field="prompt") from error
    return [line for line in lines if any(cell.strip() for cell in line) and not line[0].lstrip().startswith("#")]


def cells_of(text: str) -> list[list[str]]:
    """The cells of a table, line by line; parted by what parts its heading: commas, semicolons or tabs.  Raises
    `csv.Error`."""
    text = text.lstrip("\ufeff")
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count)))


def _name(cell: str) -> str:
    return " ".join(cell.strip().lower().replace("_", " ").split())
