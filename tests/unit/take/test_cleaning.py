# SPDX-License-Identifier: GPL-3.0-or-later
"""Cleaning a cache throws away what can be made again, and nothing else."""

import os
import time

import numpy as np
import pytest

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.pictures import keep_rendered
from das_blender_addon.take import cleaning

DAYS_S = 2 * 86400.0
AA, BB, CC, DD, EE = (letter * 64 for letter in "abcde")
"""Keys of takes."""


def png(level: int) -> bytes:
    return encode_png(np.full((8, 12, 3), level, np.uint8))


def write(path, content=b"content"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def shot(tmp_path):
    """A shot's folder with some of everything."""
    folder = tmp_path / "cache" / "file-Scene-0123456789abcdef"
    write(folder / "takes" / AA / "take.json")
    write(folder / "takes" / AA / "frames" / "0001.png", b"x" * 1000)
    write(folder / "takes" / BB / "take.json")
    write(folder / "tracking_preview" / "0001.png", b"x" * 500)
    write(folder / "capabilities.json")
    write(folder / "first_frames" / "0010.png", png(1))
    write(folder / "first_frames" / "0010-kept-1.png", png(2))
    write(folder / "first_frames" / "sketch.kra", b"a painter's own")
    write(folder / "layers" / "Back" / "takes" / CC / "take.json")
    write(folder / "notes.txt", b"somebody's")
    write(folder / "takes" / "best of 2024" / "take.json", b"somebody's")
    write(folder / "tracking_preview" / "notes.txt", b"somebody's")
    return folder


def rendered(folder, frame=1, level=50):
    return keep_rendered(folder, frame, "a" * 64, png(level), {}).path


def clean(folder, used=()) -> tuple[int, list[str]]:
    pieces = cleaning.pieces_of([folder.parent], used)
    return cleaning.throw_away([piece for piece in pieces if piece.kind in cleaning.DISPOSABLE])


def left(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_can_be_made_again_goes(shot):
    rendered(shot)
    painted = rendered(shot, frame=2, level=60)
    painted.write_bytes(png(200))
    freed, refused = clean(shot)
    assert refused == [] and freed > 1500
    assert left(shot) == {
        "capabilities.json",
        "notes.txt",
        "takes/best of 2024/take.json",
        "tracking_preview/notes.txt",
        "first_frames/0010.png",
        "first_frames/0010-kept-1.png",
        "first_frames/sketch.kra",
        f"first_frames/{painted.name}",
        f"first_frames/{painted.with_suffix('.json').name}",
    }


def test_picture_that_is_painted_over_after_it_was_listed_stays(shot):
    path = rendered(shot)
    pieces = cleaning.pieces_of([shot.parent])
    assert path in [piece.path for piece in pieces if piece.kind == cleaning.FIRST_FRAMES]
    path.write_bytes(png(200))
    cleaning.throw_away(pieces)
    assert path.read_bytes() == png(200)


def test_take_on_a_strip_stays(shot):
    clean(shot, used=(AA,))
    assert f"takes/{AA}/frames/0001.png" in left(shot) and f"takes/{BB}/take.json" not in left(shot)


def test_starred_take_stays_also_where_the_star_came_after_the_list(shot):
    write(shot / "takes" / AA / cleaning.STAR)
    pieces = cleaning.pieces_of([shot.parent])
    assert [one.path.name for one in pieces if one.kind == cleaning.TAKES] == [BB, CC]
    write(shot / "takes" / BB / cleaning.STAR)
    assert cleaning.throw_away(pieces)[0] < 1000
    assert {f"takes/{AA}/take.json", f"takes/{BB}/take.json"} <= left(shot)
    assert not (shot / "layers/Back/takes" / CC).exists()


def test_take_that_is_being_made_stays_and_one_that_was_given_up_goes(shot):
    now = write(shot / "takes" / DD / "model" / "0001.png")
    old = write(shot / "takes" / EE / "job.json")
    for path in (old, old.parent):
        os.utime(path, (time.time() - DAYS_S,) * 2)
    clean(shot)
    assert now.exists() and not old.parent.exists()


def test_takes_are_gone_at_once_and_their_files_when_somebody_has_time(shot):
    pieces, asked = cleaning.pieces_of([shot.parent]), []
    freed, refused = cleaning.throw_away([one for one in pieces if one.kind == cleaning.TAKES], asked.append)
    assert freed == 1000 + 3 * 7 and refused == []
    assert asked == [{shot / "takes", shot / "layers" / "Back" / "takes"}]
    names = [path.name for path in (shot / "takes").iterdir()]
    assert AA not in names and len(names) == 3 and sum(name.endswith(cleaning.GONE) for name in names) == 2
    write(shot / "takes" / AA / "take.json")  # made anew meanwhile
    cleaning.remove_gone(shot / "takes")
    assert sorted(path.name for path in (shot / "takes").iterdir()) == [AA, "best of 2024"]


def test_what_a_blender_that_ended_has_left_of_deleted_takes_goes_with_the_next_ones(shot):
    cleaning.aside(shot / "takes" / AA)
    assert cleaning.total_bytes(cleaning.pieces_of([shot.parent]), cleaning.TAKES) == 1000 + 3 * 7
    freed, refused = clean(shot)
    assert refused == [] and freed >= 1000 + 3 * 7
    assert [path.name for path in (shot / "takes").iterdir()] == ["best of 2024"]


def test_sizes_are_told_per_kind_and_shot(shot):
    rendered(shot)
    pieces = cleaning.pieces_of([shot.parent, shot.parent])  # one cache counts once
    takes, previews = (cleaning.total_bytes(pieces, kind) for kind in (cleaning.TAKES, cleaning.PREVIEWS))
    assert (takes, previews) == (1000 + 3 * 7, 500)
    kept = cleaning.total_bytes(pieces, cleaning.KEPT)
    assert kept >= len(png(1)) + len(png(2)) and cleaning.total_bytes(pieces) > takes + previews + kept
    first, second = cleaning.by_shot([piece for piece in pieces if piece.kind in cleaning.DISPOSABLE])
    assert first[0] == "file-Scene" and first[1][cleaning.PREVIEWS] == (1, 500)
    assert first[1][cleaning.TAKES] == (2, 1000 + 2 * 7) and first[1][cleaning.FIRST_FRAMES][0] == 1
    assert second == ("file-Scene, Back", {cleaning.TAKES: (1, 7)})


def test_folder_that_is_no_shots_is_not_touched(tmp_path):
    file = write(tmp_path / "cache" / "holiday" / "photo.png")
    assert cleaning.pieces_of([tmp_path / "cache", tmp_path / "none"]) == []
    assert file.exists()


@pytest.mark.parametrize(
    ("size_bytes", "words"), [(0, "0 bytes"), (1500, "1.5 kB"), (2_340_000, "2.3 MB"), (5e9, "5.0 GB")]
)
def test_sizes_in_words(size_bytes, words):
    assert cleaning.size_in_words(size_bytes) == words
