# SPDX-License-Identifier: GPL-3.0-or-later
"""All takes of a shot: the list, what differs, stars, deleting."""

import json
from dataclasses import replace

import pytest

from das_blender_addon.errors import SettingsError, StorageError
from das_blender_addon.take.cleaning import STAR
from das_blender_addon.take.library import (
    check_deletable,
    check_frames,
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


@pytest.mark.parametrize(
    "damage",
    [
        {"window_seeds": [7]}, {"model": {"name": "das"}}, {"seed": "many"}, {"seed": None}, {"options": [1]},
        {"options": {"loras": ["ink"]}}, {"model_size": 7}, {"frame_numbers": None, "cameras": [7]},
        {"key_pictures": [{"frame": [1]}], "cameras": {"a": 1}},
    ],
)  # fmt: skip
def test_report_that_nobody_can_read_leaves_the_other_takes_in_the_list(tmp_path, damage):
    written_take(tmp_path, "good", made=100.0, seed=3)
    written_take(tmp_path, "odd", made=200.0, **damage)
    entries = takes_of(tmp_path)
    assert entries[-1].report["seed"] == 3
    for entry in entries:  # what is listed can be told, compared and used
        assert entry.words(entries[-1]) and settings_of(entry)["model"] == "das-preview"
        assert isinstance(differences(entries[-1], entry), list)


def test_take_json_of_another_release_or_nested_without_end_is_left_out(tmp_path):
    written_take(tmp_path, "good")
    newer = written_take(tmp_path, "newer")
    file = newer.folder / "take.json"
    file.write_text(file.read_text().replace('"layout": 2', '"layout": 3'))
    (written_take(tmp_path, "deep").folder / "take.json").write_text('{"a":' + "[" * 200_000)
    (written_take(tmp_path, "latin").folder / "take.json").write_bytes(b'{"prompt": "\xfc"}')
    assert len(takes_of(tmp_path)) == 1


def test_words_are_one_short_line_whatever_the_prompt_is(tmp_path):
    written_take(tmp_path, "a", made=1.0, prompt="zwei\nZeilen\t\x1b[31m und „mehr“ / 'so'")
    written_take(tmp_path, "b", made=2.0, prompt="wort " * 2000)
    long, odd = takes_of(tmp_path)
    assert odd.words().endswith("· zwei Zeilen [31m und „mehr“ / 'so'")
    assert len(long.words()) < 300 and long.words(odd).endswith("…")
    assert settings_of(long)["prompt"] == "wort " * 2000


def test_star_counts_as_it_lies_on_the_disk_now(tmp_path):
    written_take(tmp_path, "a")
    (entry,) = takes_of(tmp_path)
    (entry.take.folder / STAR).touch()  # by another Blender
    assert not entry.starred
    with pytest.raises(SettingsError, match="is starred and is not deleted"):
        check_deletable(entry, ())
    with pytest.raises(SettingsError, match="on a strip"):
        check_deletable(replace(entry, take=replace(entry.take, folder=tmp_path)), {entry.key})


def test_take_that_another_blender_has_deleted_is_gone_without_a_complaint(tmp_path):
    written_take(tmp_path, "a")
    (entry,) = takes_of(tmp_path)
    delete_take(entry)
    assert delete_take(entry) == 0 and takes_of(tmp_path) == []
    with pytest.raises(StorageError, match="starred cannot be written"):
        set_star(entry, True)
    set_star(entry, False)


def test_frame_that_is_gone_is_named(tmp_path):
    take = written_take(tmp_path, "a")
    check_frames(take)
    take.frames[1].write_bytes(b"")
    with pytest.raises(StorageError, match=r"frame 2 of the take .* is missing or empty: .*0002\.png"):
        check_frames(take)
    take.frames[0].unlink()
    with pytest.raises(StorageError, match=r"frame 1 of the take .*0001\.png"):
        check_frames(take)
