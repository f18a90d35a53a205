# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the frames of an MP4 or QuickTime movie last, as its table of times says it."""

from __future__ import annotations

import struct
from pathlib import Path

from ..errors import SettingsError

ENDINGS = (".mp4", ".m4v", ".mov")
_FOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
SLACK = 1.5
"""A movie whose frames last up to this many times as long as its shortest ones is taken for even: clocks round."""
OFTEN = 0.02
"""Share of the frames that may last longer: one that was dropped is no other rate."""


def check_even(path: Path) -> None:
    """Raise `SettingsError` where the frames of the movie ``path`` last differently long (variable frame rate).

    A movie of another kind, or without a table of times, passes.
    """
    if path.suffix.lower() not in ENDINGS:
        return
    durations = frame_times(path)
    total = sum(count for count, _ in durations)
    if total < 3:
        return
    usual = max(durations, key=lambda one: one[0])[1]
    odd = sum(count for count, ticks in durations if not usual / SLACK <= ticks <= usual * SLACK)
    if odd > max(1, OFTEN * total):  # the last frame often lasts as long as whoever wrote it liked
        shortest, longest = min(ticks for _, ticks in durations), max(ticks for _, ticks in durations)
        raise SettingsError(
            f"The movie {path} has a variable frame rate (some of its frames last {longest / max(shortest, 1):.1f} "
            "times as long as others), so its motion would be uneven; convert it to a constant rate first (ffmpeg -i "
            f"{path.name} -vsync cfr -r 24 even.mp4).",
            field="clip",
        )


def frame_times(path: Path) -> list[tuple[int, int]]:
    """[(count, ticks)]: so many frames last so many ticks of the movie's clock, in order; [] where nobody says."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            return _table(file, 0, file.tell(), False) or []
    except (OSError, struct.error):
        return []


def _table(file, start: int, end: int, is_video: bool) -> list[tuple[int, int]] | None:
    """The ``stts`` of the first video track between ``start`` and ``end``."""
    at = start
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        size = size or end - at
        if size < head or at + size > end:
            return None
        if kind == b"hdlr":
            file.seek(at + head + 8)
            is_video = file.read(4) == b"vide"
        elif kind in _FOLDERS:
            found = _table(file, at + head, at + size, is_video)
            if found:
                return found
        elif kind == b"stts" and is_video:
            file.seek(at + head + 4)
            count = min(struct.unpack(">I", file.read(4))[0], (size - head - 8) // 8)
            values = struct.unpack(f">{2 * count}I", file.read(8 * count))
            return list(zip(values[::2], values[1::2], strict=True))
        at += size
    return None
