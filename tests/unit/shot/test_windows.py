# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot of any length is cut into windows that a model makes, and every frame is made by one or by two of them."""

import numpy as np
import pytest

from das_blender_addon.shot.windows import (
    MOST_EVERY,
    OVERLAP,
    Window,
    cut_into_windows,
    frames_every,
    made_frames,
    owners,
)

FULL, PREVIEW, PEER = (49,), (9, 17, 25, 33, 41, 49), (3,)
"""Windows of the full model, of the preview model, and of one that makes very short clips."""
MOST_SHARES = 1.001
"""Times that a share may change from one frame to the next what it would if the change took the whole overlap."""


def random_keys(count, seed):
    rng = np.random.default_rng(seed)
    return tuple(sorted({0, *rng.integers(0, count, rng.integers(1, 9)).tolist()}))


def cuts():
    """(count, lengths, keys) of many shots."""
    for lengths in (FULL, PREVIEW, PEER, (5, 9), (1,), (2,)):
        for count in (*range(1, 3 * max(lengths) + 3), 500, 1000):
            yield count, lengths, (0,)
            yield count, lengths, random_keys(count, count)
            yield count, lengths, tuple(range(count))


def shares(windows, index):
    """window → how much of the frame ``index`` it makes."""
    first, second, share = owners(windows, index)
    return {first: 1.0 - share} | ({} if second is None else {second: share})


def test_every_frame_is_in_a_window_and_every_window_is_one_that_the_model_makes():
    for count, lengths, keys in cuts():
        windows = cut_into_windows(count, lengths, keys)
        covered = {index for window in windows for index in range(window.start, window.stop)}
        assert covered == set(range(count)), (count, lengths, keys)
        assert all(window.length in lengths and 1 <= window.count <= window.length for window in windows)
        starts, stops = [window.start for window in windows], [window.stop for window in windows]
        assert starts == sorted(set(starts)) and stops == sorted(set(stops)), (count, lengths, keys)


@pytest.mark.parametrize("lengths", [FULL, PREVIEW, (9,), PEER, (2,)], ids=str)
def test_neighbours_share_the_overlap_or_half_a_window(lengths):
    overlap = min(OVERLAP, max(lengths) // 2)
    for count in range(max(lengths) + 1, 4 * max(lengths)):
        for keys in ((0,), random_keys(count, count)):
            windows = cut_into_windows(count, lengths, keys)
            assert len(windows) > 1
            for before, after in zip(windows, windows[1:], strict=False):
                assert before.stop - after.start >= overlap, (count, keys, windows)


@pytest.mark.parametrize(("count", "length"), [(1, 9), (9, 9), (10, 17), (48, 49), (49, 49)])
def test_shot_that_fits_is_one_window_the_shortest_that_holds_it(count, length):
    for keys in ((0,), (0, count // 2), tuple(range(count))):
        assert cut_into_windows(count, PREVIEW, keys) == (Window(0, count, length),)


def test_window_begins_at_the_last_key_that_leaves_an_overlap():
    windows = cut_into_windows(120, FULL, (0, 10, 30, 38, 45, 79, 100))
    assert [window.start for window in windows] == [0, 38, 79]
    assert windows[1].stop == 38 + 49 and windows[2] == Window(79, 120, 49)


def test_key_too_near_to_the_window_before_does_not_begin_one():
    assert [window.start for window in cut_into_windows(100, FULL, (0, 24))] == [0, 24, 51]
    assert [window.start for window in cut_into_windows(100, FULL, (0, 23))] == [0, 41, 51]


def test_last_window_is_filled_with_frames_of_the_shot_where_no_key_begins_it():
    assert cut_into_windows(60, FULL)[-1] == Window(11, 60, 49)
    assert cut_into_windows(60, PREVIEW)[-1] == Window(60 - 25, 60, 25)
    assert cut_into_windows(73, FULL, (0, 23))[-1] == Window(24, 73, 49)
    at_key = cut_into_windows(60, FULL, (0, 40))[-1]
    assert at_key == Window(40, 60, 49) and at_key.held.tolist() == [*range(40, 60), *[59] * 29]


def test_held_fills_the_models_clip_with_the_last_frame():
    assert Window(3, 6, 5).held.tolist() == [3, 4, 5, 5, 5]
    assert Window(0, 9, 9).held.tolist() == list(range(9))


def test_frame_in_one_window_is_that_ones_alone():
    windows = cut_into_windows(60, PREVIEW)
    assert owners(windows, 0) == (windows[0], None, 0.0)
    assert owners(windows, 59) == (windows[1], None, 0.0)


def test_later_window_takes_over_step_by_step_and_neither_end_is_abrupt():
    windows = (Window(0, 9, 9), Window(5, 14, 9))
    assert [owners(windows, index)[2] for index in range(5, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_frame_is_only_made_by_windows_that_hold_it():
    for count, lengths, keys in cuts():
        windows = cut_into_windows(count, lengths, keys)
        for index in range(count):
            made = shares(windows, index)
            assert sum(made.values()) == pytest.approx(1.0)
            assert all(window.start <= index < window.stop and 0.0 < share <= 1.0 for window, share in made.items())


@pytest.mark.parametrize("lengths", [FULL, PREVIEW, (9,)], ids=str)
def test_no_window_comes_or_goes_at_once(lengths):
    """Also where three windows hold one frame: when the last one is filled, or keys are near to each other."""
    overlap = min(OVERLAP, max(lengths) // 2)
    for count in range(max(lengths) + 1, 4 * max(lengths)):
        for keys in ((0,), random_keys(count, count), tuple(range(count))):
            windows = cut_into_windows(count, lengths, keys)
            made = [shares(windows, index) for index in range(count)]
            for index in range(1, count):
                before, after = made[index - 1], made[index]
                change = max(abs(after.get(window, 0.0) - before.get(window, 0.0)) for window in {*before, *after})
                assert change <= MOST_SHARES / (overlap + 1), (count, keys, index, windows)


# ── Which frames a model makes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("count", "every", "keys", "made"),
    [
        (7, 1, (0,), range(7)),
        (7, 3, (0,), (0, 3, 6)),
        (9, 3, (0,), (0, 3, 6, 8)),
        (1, 3, (0,), (0,)),
        (2, 3, (0,), (0, 1)),
        (12, 3, (0, 4), (0, 3, 4, 7, 10, 11)),
        (12, 3, (0, 6, 7), (0, 3, 6, 7, 10, 11)),
        (12, 1000, (0,), (0, 11)),
    ],
)
def test_model_makes_every_nth_frame_from_each_key_picture_on_and_the_last(count, every, keys, made):
    assert made_frames(count, every, keys) == tuple(made)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_made_frames_have_every_key_and_no_larger_gap_and_do_not_move_with_the_length(every):
    for seed in range(20):
        keys = random_keys(90, seed)
        made = made_frames(90, every, keys)
        assert {0, 89, *keys} <= set(made) and max(np.diff(made)) <= every
        assert made_frames(100, every, keys)[: len(made) - 1] == made[:-1]


@pytest.mark.parametrize(
    ("shots", "models", "every"),
    [(24, 8, 3), (25, 8, 3), (23.976, 8, 3), (30, 8, 4), (60, 8, 8), (12, 8, 2), (11, 8, 1), (8, 8, 1), (1, 8, 1),
     (24, 0, 1), (0, 8, 1), (1e9, 8, MOST_EVERY)],
)  # fmt: skip
def test_frames_of_the_model_come_as_near_as_they_can_to_its_rate(shots, models, every):
    assert frames_every(shots, models) == every
