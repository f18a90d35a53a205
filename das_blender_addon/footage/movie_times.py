# SPDX-License-Identifier: GPL-3.0-or-later
"""When the frames of a movie are shown, as its file says it: MP4 and QuickTime by their tables, Matroska and WebM by
their blocks.  Of other kinds, and of MP4 in fragments, nothing is known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

MP4, MATROSKA = (".mp4", ".m4v", ".mov"), (".mkv", ".webm")
SLACK = 1.5
"""A movie whose frames last up to this many times as long as its usual ones, or as short, is even: clocks round."""
OFTEN = 0.02
"""Share of the frames that may last longer: one that was dropped is no other rate."""
RATES = (24.0, 25.0, 30.0, 48.0, 50.0, 60.0, 24 / 1.001, 30 / 1.001, 60 / 1.001)
NEAR = 0.004
"""A rate that is so near to one of `RATES` is that one: clocks round."""
MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class Timing:
    """``rate``: frames a second that are usual; ``seconds`` from the first frame to the last one's end; ``longest``:
    how many usual frames the longest one lasts.  ``is_even``: all last as long, but for some that were dropped.
    """

    rate: float
    seconds: float
    longest: float
    is_even: bool


def timing_of(path: Path) -> Timing | None:
    """Of the movie ``path``; None where its file does not say it."""
    times = frame_times(path)
    if len(times) < 3:
        return None
    lasts = np.diff(times)
    usual = float(np.median(lasts))
    if not usual > 0.0:
        return None
    is_usual = (lasts <= SLACK * usual) & (lasts >= usual / SLACK)
    rate = 1.0 / float(lasts[is_usual].mean())
    known = min(RATES, key=lambda one: abs(rate / one - 1.0))
    rate = known if abs(rate / known - 1.0) < NEAR else rate
    odd = len(lasts) - int(is_usual.sum())
    seconds = float(times[-1] - times[0]) + 1.0 / rate
    return Timing(rate, seconds, float(lasts.max() * rate), odd <= max(1, OFTEN * len(lasts)))


def frame_times(path: Path) -> np.ndarray:
    """[N] f64 seconds, in order: when each frame of the movie's first video track is shown; [0] where nobody says."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            if path.suffix.lower() in MP4:
                return np.sort(_of_mp4(file, end))
            if path.suffix.lower() in MATROSKA:
                return np.sort(_of_matroska(file, end))
    except (OSError, struct.error, ValueError, IndexError):
        pass
    return np.zeros(0)


# ── MP4 and QuickTime ───────────────────────────────────────────────────────────────────────────────────────────────


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where it begins, where it ends) of what lies between ``start`` and ``end``."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        size = size or end - start
        if size < head or start + size > end:
            return
        yield kind, start + head, start + size
        start += size


def _inside(file: BinaryIO, start: int, end: int, *kinds: bytes) -> tuple[int, int] | None:
    """The first box of the last of ``kinds`` in the first of the one before, and so on."""
    for kind in kinds:
        found = next((one for one in _boxes(file, start, end) if one[0] == kind), None)
        if found is None:
            return None
        _, start, end = found
    return start, end


def _of_mp4(file: BinaryIO, end: int) -> np.ndarray:
    whole = _inside(file, 0, end, b"moov")
    tracks = [] if whole is None else [one[1:] for one in _boxes(file, *whole) if one[0] == b"trak"]
    for track in tracks:
        handler, clock = (_inside(file, *track, b"mdia", kind) for kind in (b"hdlr", b"mdhd"))
        table = _inside(file, *track, b"mdia", b"minf", b"stbl", b"stts")
        if None in (handler, clock, table):
            continue
        file.seek(handler[0] + 8)
        if file.read(4) != b"vide":
            continue
        file.seek(clock[0])
        file.seek(clock[0] + (20 if file.read(1)[0] else 12))
        (ticks,) = struct.unpack(">I", file.read(4))
        steps = _spread(file, *table, ">u4").astype(np.float64)
        shown = np.r_[0.0, np.cumsum(steps[:-1])] if len(steps) else steps
        late = _inside(file, *track, b"mdia", b"minf", b"stbl", b"ctts")
        if late is not None:
            shown = shown + _spread(file, *late, ">i4")[: len(shown)]
        return shown / ticks if ticks else np.zeros(0)
    return np.zeros(0)


def _spread(file: BinaryIO, start: int, end: int, kind: str) -> np.ndarray:
    """The values of a table of (count, value), each as often as it counts."""
    file.seek(start + 4)
    rows = min(struct.unpack(">I", file.read(4))[0], (end - start - 8) // 8)
    table = np.frombuffer(file.read(8 * rows), ">u4").reshape(-1, 2)
    counts = table[:, 0].astype(np.int64)
    if counts.sum() > MOST_FRAMES:
        return np.zeros(0)
    return np.repeat(np.ascontiguousarray(table[:, 1]).view(kind), counts)


# ── Matroska and WebM ───────────────────────────────────────────────────────────────────────────────────────────────

_SEGMENT, _INFO, _SCALE, _TRACKS, _TRACK = 0x18538067, 0x1549A966, 0x2AD7B1, 0x1654AE6B, 0xAE
_NUMBER, _KIND, _CLUSTER, _TIME, _SIMPLE, _GROUP, _BLOCK = 0xD7, 0x83, 0x1F43B675, 0xE7, 0xA3, 0xA0, 0xA1
_NESTED = (_SEGMENT, _INFO, _TRACKS, _TRACK, _CLUSTER, _GROUP)
_VIDEO = 1


def _of_matroska(file: BinaryIO, end: int) -> np.ndarray:
    """All elements one after the other; where those that hold others end does not matter."""
    scale, cluster, number, video, ticks = 1_000_000, 0, 0, None, []
    at = 0
    while at < end and len(ticks) < MOST_FRAMES:
        file.seek(at)
        head = file.read(12)
        kind, first = _number(head, keeps_mark=True)
        size, second = _number(head[first:])
        at += first + second
        if kind in _NESTED:
            continue
        if size is None:  # nobody knows where it ends
            break
        if kind in (_SCALE, _NUMBER, _KIND, _TIME):
            file.seek(at)
            value = int.from_bytes(file.read(size if size <= 8 else 0), "big")
            scale = value if kind == _SCALE else scale
            number = value if kind == _NUMBER else number
            cluster = value if kind == _TIME else cluster
            video = number if kind == _KIND and value == _VIDEO and video is None else video
        elif kind in (_SIMPLE, _BLOCK):
            file.seek(at)
            head = file.read(10)
            track, length = _number(head)
            if track == video:
                ticks.append(cluster + struct.unpack_from(">h", head, length)[0])
        at += size
    return np.array(ticks, dtype=np.float64) * scale * 1e-9


def _number(data: bytes, keeps_mark: bool = False) -> tuple[int | None, int]:
    """(a number of EBML, its bytes); None for a size that is not known."""
    length = 9 - data[0].bit_length()
    if length > 8 or len(data) < length:
        raise ValueError("no number of EBML")
    value = int.from_bytes(data[:length], "big")
    if keeps_mark:
        return value, length
    value &= (1 << 7 * length) - 1
    return (None if value == (1 << 7 * length) - 1 else value), length
