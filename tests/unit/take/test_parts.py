# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of a shot's windows, made by several machines into one cache; whoever makes the whole finds them."""

import json

import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.take.run import run_part, run_take
from das_blender_addon.take.window_store import NAME
from tests.unit.take.test_take_in_windows import LEVELS, levels, peer, request_of, shot  # noqa: F401


def noted(asked) -> list[str]:
    return sorted(path.parent.name for path in asked.folder.glob(f"windows/*/{NAME}"))


def test_parts_are_made_and_found_by_the_whole(request_of, peer):  # noqa: F811
    asked = request_of(shot(keys=[2, 4]))
    assert list(run_part(asked, peer.address, (2, 2))) == [1, 2] and noted(asked) == ["02", "03"]
    assert not (asked.folder / "take.json").exists()
    made = set(peer.jobs)
    assert list(run_part(asked, peer.address, (1, 2))) == [0]
    assert len(set(peer.jobs) - made) == 1
    made = set(peer.jobs)
    assert levels(run_take(asked, peer.address).frames) == LEVELS and set(peer.jobs) == made


@pytest.mark.parametrize("of", [1, 2, 3, 5, 7])
def test_every_window_is_in_one_part(request_of, peer, of):  # noqa: F811
    asked = request_of(shot(keys=[2, 4]))
    numbers = [number for part in range(1, of + 1) for number in run_part(asked, peer.address, (part, of))]
    assert numbers == [0, 1, 2] and noted(asked) == ["01", "02", "03"]


def test_part_that_begins_with_a_frame_of_another_is_refused_by_its_frame(request_of, peer):  # noqa: F811
    asked = request_of()
    with pytest.raises(SettingsError, match="part 2/2 begins with a frame of the part before .* picture at frame 13"):
        run_part(asked, peer.address, (2, 2))
    assert list(run_part(asked, peer.address, (1, 2))) == [0] and len(peer.jobs) == 1


def test_part_of_a_take_that_is_there_asks_nobody(request_of, peer):  # noqa: F811
    asked = request_of(shot(keys=[2, 4]))
    run_take(asked, peer.address)
    made = set(peer.jobs)
    run_part(asked, peer.address, (1, 1))
    assert set(peer.jobs) == made


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"layout": 1}', "gone"])
def test_window_whose_note_is_damaged_is_made_again(request_of, peer, damage):  # noqa: F811
    asked = request_of(shot(keys=[2, 4]))
    run_part(asked, peer.address, (1, 3))
    note = asked.folder / "windows" / "01" / NAME
    before = json.loads(note.read_text())
    note.unlink() if damage == "gone" else note.write_text(damage)
    run_part(asked, peer.address, (1, 3))
    assert json.loads(note.read_text())["files"] == before["files"]
