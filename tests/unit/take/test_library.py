# SPDX-License-Identifier: GPL-3.0-or-later
"""All takes of a shot: the list, what differs, stars, deleting."""

import json

import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.take.library import (
    delete_take,
    differences,
    find_entry,
    set_star,
    settings_of,
    takes_of,
)
from tests.support.takes import SIZE, written_take


def test_newest_comes_first_and_what_is_no_take_is_left_out(tmp_path):
    written_take(tmp_path, "old", made=100.0, seed=3)
    written_take(tmp_path, "new", made=300.0, seed=4)
    broken = written_take(tmp_path, "broken", made=200.0)
    (broken.folder / "take.json").write_text("{")
    bare = written_take(tmp_path, "bare", made=200.0)
    (bare.folder / "take.json").write_text(json.dumps({"layout": 2, "key": bare.key, "files": {}}))
    (tmp_path / "takes" / "somebody's").mkdir()
    assert [entry.report["seed"] for entry in takes_of(tmp_path)] == [4, 3]
    assert takes_of(tmp_path / "nowhere") == []


def test_entry_tells_size_middle_and_moment(tmp_path):
    take = written_take(tmp_path, "a", frames=range(1, 6))
    (entry,) = takes_of(tmp_path)
    assert entry.thumbnail == take.frames[2] and entry.take.frame_numbers == (1, 2, 3, 4, 5)
    assert entry.size_bytes == sum(path.stat().st_size for path in take.folder.rglob("*") if path.is_file())
    assert entry.made == 1000.0 and len(entry.when) == 16


def test_take_that_is_made_anew_is_read_anew(tmp_path):
    written_take(tmp_path, "a", made=100.0, seed=1)
    assert takes_of(tmp_path)[0].report["seed"] == 1
    written_take(tmp_path, "a", made=200.0, seed=2)
    assert takes_of(tmp_path)[0].report["seed"] == 2


@pytest.mark.parametrize(
    "before, now, words",
    [
        ("a red vase", "a red vase", "seed 1 · das-preview"),
        ("a red vase", "a red vase in rain", "seed 1 · das-preview · + in rain"),
        ("a red vase", "stone", "seed 1 · das-preview · stone"),
    ],
)
def test_words_name_what_is_new_in_the_prompt(tmp_path, before, now, words):
    written_take(tmp_path, "b", made=100.0, prompt=before)
    written_take(tmp_path, "n", made=200.0, prompt=now)
    new, old = takes_of(tmp_path)
    assert new.words(old) == words


def test_differences_are_named_once(tmp_path):
    written_take(tmp_path, "a", made=100.0, seed=1, key_pictures=[{"frame": 1, "sha256": "a" * 64}])
    written_take(
        tmp_path, "b", made=200.0, seed=2, frames=(1, 2), key_pictures=[{"frame": 1, "sha256": "b" * 64}]
    )
    new, old = takes_of(tmp_path)
    assert [name for name, _, _ in differences(old, new)] == ["seed", "key_pictures", "frame_numbers"]
    assert ("frame_numbers", "1 to 3", "1 to 2") in differences(old, new) and differences(new, new) == []


def test_settings_make_it_again(tmp_path):
    written_take(tmp_path, "a", seed=9, prompt="p", num_inference_steps=4)
    settings = settings_of(takes_of(tmp_path)[0])
    assert settings["seed"] == 9 and settings["steps"] == 4 and settings["prompt"] == "p"
    assert settings["size"] == f"{SIZE[0]}x{SIZE[1]}"


def test_take_is_named_by_number_digits_or_last(tmp_path):
    for number in range(3):
        written_take(tmp_path, str(number), made=float(number))
    entries = takes_of(tmp_path)
    assert find_entry(entries, "1") is entries[0] is find_entry(entries, "last")
    assert find_entry(entries, entries[2].key[:12]) is entries[2]
    for name in ("0", "4", "abc", "zzzzzz", "", "²"):
        with pytest.raises(SettingsError):
            find_entry(entries, name)
    with pytest.raises(SettingsError, match="has no take"):
        find_entry([], "last")


def test_star_travels_with_the_folder(tmp_path):
    written_take(tmp_path, "a")
    set_star(takes_of(tmp_path)[0], True)
    (tmp_path / "takes").rename(tmp_path / "elsewhere")
    (tmp_path / "copied").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "copied" / "takes")
    (entry,) = takes_of(tmp_path / "copied")
    assert entry.starred
    set_star(entry, False)
    assert not takes_of(tmp_path / "copied")[0].starred


def test_deleted_take_frees_its_size_and_leaves_the_others(tmp_path):
    written_take(tmp_path, "a", made=1.0)
    gone = written_take(tmp_path, "b", made=2.0)
    entry = takes_of(tmp_path)[0]
    assert delete_take(entry) == entry.size_bytes > 0 and not gone.folder.exists()
    assert len(takes_of(tmp_path)) == 1
