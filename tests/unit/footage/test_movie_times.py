# SPDX-License-Identifier: GPL-3.0-or-later
"""When a movie's frames are shown is read from its file; damaged ones say nothing."""

import struct

import numpy as np
import pytest

from das_blender_addon.footage.movie_times import MATROSKA, MP4, frame_times, timing_of
from tests.support.uneven_movies import FOLDER, NAMES, PHONE, UNEVEN

CLOCK_S = 0.0006
"""Matroska counts milliseconds."""


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def table(kind: bytes, entries) -> bytes:
    flat = [value & 0xFFFFFFFF for entry in entries for value in entry]
    return box(kind, bytes(4), struct.pack(f">I{len(flat)}I", len(entries), *flat))


def movie(entries, handler: bytes = b"vide", *more: bytes, version: int = 0) -> bytes:
    """A sound that is even, and a track of ``handler`` whose clock ticks 24,000 times a second."""
    clock = bytes([version]) + bytes(19 if version else 11) + struct.pack(">I", 24_000) + bytes(12)

    def track(kind: bytes, *tables: bytes) -> bytes:
        parts = box(b"mdhd", clock), box(b"hdlr", bytes(8), kind, bytes(12)), box(b"minf", box(b"stbl", *tables))
        return box(b"trak", box(b"mdia", *parts))

    tracks = track(b"soun", table(b"stts", [(99, 5)])), track(handler, table(b"stts", entries), *more)
    return box(b"ftyp", b"isom") + box(b"mdat", bytes(100)) + box(b"moov", *tracks)


@pytest.mark.parametrize("name", NAMES)
def test_times_of_frames_are_those_that_were_written(name):
    wanted = np.array(PHONE) / 1000.0 if name.startswith("phone") else np.array(UNEVEN) / 24.0
    times = frame_times(FOLDER / name)
    np.testing.assert_allclose(times - times[0], wanted, atol=CLOCK_S)
    timing = timing_of(FOLDER / name)
    assert not timing.is_even and timing.rate == (30.0 if name.startswith("phone") else 24.0)
    assert timing.longest == pytest.approx(4.0 if name.startswith("phone") else 2.0, abs=0.05)
    assert timing.seconds == pytest.approx(wanted[-1] + 1.0 / timing.rate, abs=2.0 * CLOCK_S)


@pytest.mark.parametrize(
    ("entries", "even", "rate"),
    [
        ([(30, 1000), (1, 400)], True, 24.0),
        ([(60, 1001)], True, 24 / 1.001),
        ([(30, 1000), (1, 2000), (30, 1000)], True, 24.0),
        ([(20, 1000), (10, 3000)], False, 24.0),
        ([(10, 3000), (20, 1000)], False, 24.0),
        ([(12, 700), (12, 1400)], False, None),
    ],
)
def test_movie_is_even_but_for_frames_that_were_dropped(tmp_path, entries, even, rate):
    for version in (0, 1):
        (tmp_path / "a.mov").write_bytes(movie(entries, version=version))
        timing = timing_of(tmp_path / "a.mov")
        assert timing.is_even == even and (rate is None or timing.rate == pytest.approx(rate))


def test_frames_that_are_decoded_before_they_are_shown_are_even(tmp_path):
    late = [(1, 2000), (1, 5000), (1, 2000), (1, 0), (1, 1000)] * 4
    (tmp_path / "a.mp4").write_bytes(movie([(20, 1000)], b"vide", table(b"ctts", late)))
    assert timing_of(tmp_path / "a.mp4").is_even
    early = [(1, 0), (1, 3000), (1, 0), (1, -2000), (1, -1000)] * 4
    (tmp_path / "b.mp4").write_bytes(movie([(20, 1000)], b"vide", table(b"ctts", early)))
    np.testing.assert_allclose(frame_times(tmp_path / "b.mp4"), np.arange(20) / 24.0)


@pytest.mark.parametrize("ending", [*MP4, *MATROSKA, ".avi"])
def test_files_that_say_nothing_are_not_judged(tmp_path, ending):
    path, random = tmp_path / f"a{ending}", np.random.default_rng(1)
    whole = (FOLDER / "uneven.mkv").read_bytes() if ending in MATROSKA else movie([(20, 1000), (10, 3000)])
    cuts = [whole[:size] for size in range(0, len(whole) // 4, 7)]
    noise = [bytes(random.integers(0, 256, 200, np.uint8)) for _ in range(20)]
    sound, many = movie([(9, 1), (9, 9)], b"soun"), movie([(4_000_000_000, 1), (9, 9)])
    for data in (b"", b"no movie at all", sound, many, *cuts, *noise):
        path.write_bytes(data)
        found = timing_of(path)
        assert found is None or (data in cuts and found.seconds > 0.0)
    assert timing_of(tmp_path / f"none{ending}") is None
