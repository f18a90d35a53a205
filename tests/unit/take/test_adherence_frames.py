# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of a take that is measured: what is kept of them, in memory and on disk."""

import tracemalloc

import numpy as np

from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.take.adherence_figures import Means
from das_blender_addon.take.adherence_frames import MeasuredFrames

SHAPE, STEP, SHARED = (24, 32), 8, 2
MOST_PER_FRAME = 6000
"""Bytes: a frame of three objects is some 40 numbers with their names; its histogram alone has 65536."""
RNG = np.random.default_rng(4)
NOISE = [RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8) for _ in range(7)]


def measured(folder, count, every=1):
    """``count`` frames in windows that share `SHARED`, as a take is measured."""
    frames = MeasuredFrames(folder, SHAPE[0], tuple(range(11, 11 + count)))
    made = list(range(0, count, every))
    for number, start in enumerate(range(0, len(made), STEP)):
        frames.finish(made[start])
        for index in made[start : start + STEP + SHARED]:
            errors = np.full(100, 0.25 + number, np.float32)
            figures = frames.at(index)
            figures.tally.add(errors, errors)
            for name in ("Wänd", "Cube", "Floor"):
                figures.objects.setdefault(name, Means()).add(errors, errors)
            frames.keep_heat_map(index, lambda index=index: encode_png(NOISE[index % len(NOISE)]))
    return frames


def kept_bytes(folder, count):
    """(what ``count`` frames leave in memory, the most that there was meanwhile)."""
    tracemalloc.start()
    frames = measured(folder, count)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(frames.told()) == count
    return kept, most


def test_two_hundred_frames_take_little_more_memory_than_forty(tmp_path):
    few, many = (kept_bytes(tmp_path / str(count), count) for count in (40, 200))
    assert (many[0] - few[0]) / 160 < MOST_PER_FRAME and (many[1] - few[1]) / 160 < MOST_PER_FRAME
    assert len(list((tmp_path / "200").iterdir())) == 200


def test_frame_of_two_windows_is_told_once_with_both(tmp_path):
    told = measured(tmp_path, 20).told()
    assert [one["frame"] for one in told] == list(range(11, 31))
    assert [one["mean_px"] for one in told][6:12] == [0.25, 0.25, 0.75, 0.75, 1.25, 1.25]
    assert told[8]["objects"]["Wänd"]["points"] == 200 and told[7]["objects"]["Wänd"]["points"] == 100


def test_frames_that_nobody_made_have_the_heat_map_before_them(tmp_path):
    frames = measured(tmp_path, 11, every=3)
    frames.fill_heat_maps()
    shown = [decode_png((tmp_path / f"{index + 1:04d}.png").read_bytes()) for index in range(11)]
    for index, picture in enumerate(shown):
        np.testing.assert_array_equal(picture, NOISE[index // 3 * 3 % len(NOISE)])
