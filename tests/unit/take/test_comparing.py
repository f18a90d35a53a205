# SPDX-License-Identifier: GPL-3.0-or-later
"""Two takes in one picture, and contact sheets."""

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SettingsError, StorageError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.take.comparing import GAIN, GAP_PX, compare_takes, compared, contact_sheet
from tests.support.takes import SIZE, written_take

ONE, OTHER = (np.full((8, 12, 3), level, np.uint8) for level in (50, 60))


def test_side_by_side_has_both_whole():
    picture = compared(ONE, OTHER, "side")
    assert picture.shape == (8, 24 + GAP_PX, 3)
    assert (picture[:, :12] == 50).all() and (picture[:, -12:] == 60).all()


@pytest.mark.parametrize("wipe, left, right", [(0.5, 50, 60), (0.0, 60, 60), (1.0, 50, 50)])
def test_wipe_shows_the_first_at_the_left(wipe, left, right):
    picture = compared(ONE, OTHER, "wipe", wipe)
    assert picture.shape == ONE.shape
    assert (picture[:, 2:4] == left).all() and (picture[:, -4:-2] == right).all()


def test_difference_is_grey_where_nothing_differs():
    assert (compared(ONE, ONE, "difference") == 128).all()
    assert (compared(ONE, OTHER, "difference") == 128 + GAIN * 10).all()


def test_second_take_may_have_another_size():
    assert compared(ONE, np.full((16, 24, 3), 60, np.uint8), "difference").shape == ONE.shape
    with pytest.raises(SettingsError, match="side, wipe, difference"):
        compared(ONE, OTHER, "overlay")


@pytest.mark.parametrize("wipe", [float("nan"), -0.1, 7.0])
def test_wipe_beyond_the_picture_is_refused(wipe):
    with pytest.raises(SettingsError, match="is between 0"):
        compared(ONE, OTHER, "wipe", wipe)


def test_frames_that_both_have_are_compared(tmp_path):
    first = written_take(tmp_path, "a", frames=(1, 2, 3), level=100)
    second = written_take(tmp_path, "b", frames=(2, 3, 4), level=100)
    files = compare_takes(first, second, "difference", tmp_path / "out")
    assert [file.name for file in files] == ["0002.png", "0003.png"]
    assert (decode_png(files[0].read_bytes()) == 128 - GAIN).all()
    with pytest.raises(SettingsError, match="1 to 3, the other 7 to 8"):
        compare_takes(first, written_take(tmp_path, "c", frames=(7, 8)), "side", tmp_path / "none")
    with pytest.raises(JobCancelled):
        compare_takes(first, second, "side", tmp_path / "stopped", should_stop=lambda: True)
    second.frames[0].write_bytes(b"no picture")
    with pytest.raises(StorageError, match=r"0001\.png"):
        compare_takes(first, second, "side", tmp_path / "damaged")


@pytest.mark.parametrize("count, rows, tiles", [(1, 1, 1), (3, 1, 3), (7, 2, 7), (100, 3, 12)])
def test_contact_sheet_has_first_and_last(tmp_path, count, rows, tiles):
    take = written_take(tmp_path, "a", frames=tuple(range(1, count + 1)), level=100)
    sheet = contact_sheet(take.frames, width=100)
    columns = min(4, tiles)
    each = (100 - GAP_PX * (columns + 1)) // columns
    height = round(SIZE[1] * each / SIZE[0])
    assert sheet.shape == (rows * (height + GAP_PX) + GAP_PX, columns * (each + GAP_PX) + GAP_PX, 3)
    levels = {int(level) for level in np.unique(sheet)}
    assert {100, 100 + count - 1} <= levels and len(levels) == tiles + 1


def test_sheet_of_nothing_is_refused():
    with pytest.raises(SettingsError):
        contact_sheet([])
