# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report of adherence says, in words and in a table.  No Blender in here."""

from __future__ import annotations

from .adherence_figures import FEWEST

MOST_OBJECTS = 12


def words_of(report: dict) -> str:
    """The figures of a whole take, one line."""
    if report["off"] is None:
        return f"too little has texture to be found by: {report['counted']:.1%} of what the key pictures show"
    flicker = _level(report["flicker"])
    return (
        f"error {_px(report['mean_px'])} on average, {_px(report['p95_px'])} for 95 %, {report['off']:.1%} off, "
        f"flicker {flicker} (the animation's own: {_level(report['flicker_expected'])})"
    )


def table_of(report: dict) -> str:
    """All that is worth reading in a terminal."""
    lines = [
        words_of(report),
        f"off: farther than {report['limit_px']:g} px (1 % of the height), or not found again "
        f"({_share(report['lost'])})",
        f"measured: the model's own frames, {report['seen']:.1%} of them is shown by key pictures, of that "
        f"{report['counted']:.1%} has texture",
    ]
    if report["composed"]:
        lines.append(
            f"not measured: {report['composed']:.1%} of the take's frames is composed of key pictures, and so right by "
            "construction"
        )
    shown = report["objects"][:MOST_OBJECTS]
    sections = (
        ("object", [(one["name"], one) for one in shown]),
        ("window", [(f"{one['number']}: {one['frames'][0]}-{one['frames'][1]}", one) for one in report["windows"]]),
        ("frame", [(str(one["frame"]), one) for one in report["frames"]]),
    )
    for name, rows in sections:
        lines += ["", f"{name:24}   mean     95 %     off  texture  flicker"]
        lines += [_row(words, one) for words, one in rows]
    if len(report["objects"]) > len(shown):
        lines.append(f"and {len(report['objects']) - len(shown)} objects more that are less off: --json has them")
    for one in report["seams"]:
        lines.append(f"seam at {one['frames'][0]}-{one['frames'][1]}: the windows differ by {one['difference']} levels")
    if report["off"] is None:
        lines.append(f"Figures are told where {FEWEST:.0%} or more has texture.")
    return "\n".join(lines)


def _row(name: str, one: dict) -> str:
    cells = (_px(one["mean_px"]), _px(one["p95_px"]), _share(one["off"]), _share(one["counted"]))
    flicker = _level(one["flicker"]) if "flicker" in one else ""
    return f"{name[:24]:24} {cells[0]:>8} {cells[1]:>8} {cells[2]:>7} {cells[3]:>8} {flicker:>8}".rstrip()


def _px(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} px"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _level(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
