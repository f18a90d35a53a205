# SPDX-License-Identifier: GPL-3.0-or-later
"""Sheets, and what is rendered of them, as files: for a child Blender that renders while this one cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .sheets import Rendered, Sheet

_NAMED = "value "


def write_sheets(file: Path, sheets: list[Sheet]) -> None:
    """What a render of ``sheets`` needs.  Raises `OSError`."""
    arrays = {}
    for number, sheet in enumerate(sheets):
        arrays[f"{number} sides"], arrays[f"{number} which"] = sheet.sides, sheet.which
        arrays[f"{number} names"] = np.array([sheet.uv_map, *sheet.materials, ""], np.str_)
        for name, values in sheet.values.items():
            arrays[f"{number} {_NAMED}{len(arrays)}"] = values
            arrays[f"{number} name {len(arrays) - 1}"] = np.array([name], np.str_)
    np.savez(file, count=len(sheets), **arrays)


def read_sheets(file: Path) -> list[Sheet]:
    """What `write_sheets` wrote; no more than that is in them.  Raises `OSError`, `KeyError`, `ValueError`."""
    sheets = []
    with np.load(file, allow_pickle=False) as said:
        for number in range(int(said["count"])):
            own = f"{number} {_NAMED}"
            values = {
                str(said[f"{number} name {key.removeprefix(own)}"][0]): said[key]
                for key in said.files
                if key.startswith(own)
            }
            names = [str(name) for name in said[f"{number} names"]][:-1]
            sides, which = said[f"{number} sides"], said[f"{number} which"]
            nothing = np.zeros(0, np.int64)
            sheets.append(Sheet(nothing, nothing, names[1:], which, values, names[0], None, sides))
    return sheets


def write_rendered(file: Path, found: Rendered | None) -> None:
    """What a render of sheets gave.  Raises `OSError`."""
    levels, places = (np.zeros((0, 0), np.uint16), []) if found is None else found
    there = {f"places {number}": each for number, each in enumerate(places) if each is not None}
    np.savez(file, levels=levels, count=len(places), **there)


def read_rendered(file: Path) -> Rendered | None:
    """The inverse of `write_rendered`.  Raises `OSError`, `KeyError`, `ValueError`."""
    with np.load(file, allow_pickle=False) as said:
        names = [f"places {number}" for number in range(int(said["count"]))]
        places = [said[name] if name in said.files else None for name in names]
        return (said["levels"], places) if places else None
