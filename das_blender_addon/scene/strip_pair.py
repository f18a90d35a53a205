# SPDX-License-Identifier: GPL-3.0-or-later
"""Two rows of pictures as a pair of strips that are compared in the sequencer: beside each other, by a wipe, or as
their difference.  There is one pair in an edit scene, known by `PAIR_PROPERTY`; nothing else of the scene is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path

from .. import compat
from ..errors import SettingsError
from .sequencer import add_image_strip, channel_above, fit_frame_range

PAIR_PROPERTY = "das_compared"
"""On each strip of the pair: the key of its take, or what else it shows."""


@dataclass(frozen=True)
class Row:
    """``shows``: the key of the take, or what else it is.  ``files``: PNG files in play order, all in one folder.
    ``size``: (width, height) of their pictures, pixels."""

    name: str
    shows: str
    files: Sequence[Path]
    size: tuple[int, int]


def pair_of(edit) -> list:
    """The strips of the pair of ``edit``, [] where there is none."""
    return [strip for strip in compat.all_strips(edit) if PAIR_PROPERTY in strip.keys()]


def wipe_of(edit):
    """The strip whose fader is the place of the pair's wipe, None where it has none."""
    return next((strip for strip in pair_of(edit) if strip.type == "WIPE"), None)


def remove_pair(edit) -> int:
    """Take the pair out of ``edit``; returns how many strips that were."""
    pair = sorted(pair_of(edit), key=lambda strip: strip.type != "WIPE")  # before what goes into it
    for name in [strip.name for strip in pair]:
        owner = next(strips for strips in _owners(edit) if name in strips)
        owner.remove(owner[name])
    return len(pair)


def add_pair(edit, rows: tuple[Row, Row], frame_start: int, mode: str, wipe: float = 0.5) -> list:
    """Put ``rows``, with equally many pictures, into ``edit`` above whatever lies there, in the place of the pair that
    was there.

    ``mode``: "side", "wipe" (the first left of the share ``wipe`` of the width) or "difference".
    Returns the strips.  Raises `SettingsError`; then there is no pair.
    """
    for row in rows:
        if len({file.parent for file in row.files}) > 1:
            raise SettingsError(
                f"The pictures of {row.name} are in several folders, and those of a strip must be in one.", field="take"
            )
    remove_pair(edit)
    made = []
    try:
        for row in rows:
            made.append(add_image_strip(edit, row.name, row.files, frame_start))
            made[-1][PAIR_PROPERTY] = row.shows
        if mode == "wipe":
            frames = frame_start, frame_start + len(rows[0].files)
            name = " | ".join(row.name for row in rows)
            made.append(compat.add_wipe(edit, name, channel_above(edit, *frames), frames, *made))
            made[-1][PAIR_PROPERTY] = mode
            made[-1].use_default_fade, made[-1].effect_fader = False, 1.0 - wipe
            made[-1].direction, made[-1].angle = "OUT", pi / 2  # an upright line, the first at its left
    except SettingsError:  # no channel is left
        remove_pair(edit)
        raise
    _lay_out(edit, made, rows, mode)
    fit_frame_range(edit)
    return made


def _lay_out(edit, strips, rows, mode: str) -> None:
    """Let both fill the picture of ``edit``, or a half of it each."""
    width, height = edit.render.resolution_x, edit.render.resolution_y  # whatever percentage of it renders
    for place, row in enumerate(rows):
        transform = strips[place].transform
        scale = min(width / row.size[0], height / row.size[1])
        if mode == "side":
            scale *= 0.5
            transform.offset_x = (place - 0.5) * width / 2
        transform.scale_x = transform.scale_y = scale
    if mode == "difference":
        strips[1].blend_type = "DIFFERENCE"


def _owners(edit) -> list:
    """The collections of strips of ``edit``: its own, and those of its meta strips."""
    metas = [strip for strip in compat.all_strips(edit) if strip.type == "META"]
    return [compat.strips(edit), *(compat.strips_inside(meta) for meta in metas)]
