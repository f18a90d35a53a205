# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips are added to a dataset as a whole or not at all, one line in each list."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SettingsError, StorageError
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.take import clip_folder as dataset_folder
from das_blender_addon.take.clip_folder import (
    JOURNAL,
    LISTS,
    STAGING,
    append_clip,
    check_caption,
    check_place,
    place_of,
)

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 60.0


def made_clip(folder: Path, name: str, *, lossless: bool = True, red: int = 0):
    """A clip's files as an export makes them; (place, the folder they are in)."""
    place, made = place_of(name, lossless=lossless), folder / f"made {name}"
    png = encode_png(np.full((4, 6, 3), red, np.uint8))
    for path in place.paths:
        files = [made / path / f"{index:04d}.png" for index in (1, 2)] if "." not in Path(path).name else [made / path]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)
    return place, made


def with_caption(clip, caption: str):
    place, made = clip
    return place, caption, made


def lists_of(folder: Path) -> list[list[str]]:
    return [(folder / name).read_text(encoding="utf-8").splitlines() for name in LISTS]


def files_of(folder: Path) -> list[str]:
    """Every file of the dataset but the lock."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())[1:]


def test_clips_are_listed_in_the_order_of_their_coming(tmp_path):
    data = tmp_path / "data"
    append_clip(data, *with_caption(made_clip(tmp_path, "one"), " Ein Würfel, der sich dreht "))
    append_clip(data, *with_caption(made_clip(tmp_path, "two", lossless=False), "b"))
    assert lists_of(data) == [
        ["Ein Würfel, der sich dreht", "b"],
        ["videos/one", "videos/two.mp4"],
        ["tracking/one", "tracking/two.mp4"],
    ]
    assert files_of(data) == sorted([
        "first_frames/one.png",
        "first_frames/two.png",
        "prompt.txt",
        *(f"tracking/one/000{index}.png" for index in (1, 2)),
        "tracking/two.mp4",
        "trackings.txt",
        *(f"videos/one/000{index}.png" for index in (1, 2)),
        "videos/two.mp4",
        "videos.txt",
    ])  # fmt: skip


def test_list_without_a_last_line_end_goes_on_in_a_new_line(tmp_path):
    for name, line in zip(LISTS, ("theirs", "v/a.mp4", "t/a.mp4"), strict=True):
        (tmp_path / name).write_bytes(line.encode())
    append_clip(tmp_path, *with_caption(made_clip(tmp_path / "scratch", "one"), "ours"))
    assert lists_of(tmp_path) == [["theirs", "ours"], ["v/a.mp4", "videos/one"], ["t/a.mp4", "tracking/one"]]


@pytest.mark.parametrize("lossless", [True, False])
def test_name_that_is_taken_is_refused_and_nothing_changes(tmp_path, lossless):
    data = tmp_path / "data"
    append_clip(data, *with_caption(made_clip(tmp_path, "one", red=1), "a"))
    before = {name: (data / name).read_bytes() for name in files_of(data)}
    place, made = made_clip(tmp_path / "again", "one", lossless=lossless, red=2)
    with pytest.raises(SettingsError, match="has a clip 'one' already .*choose another name") as refused:
        check_place(data, place)
    assert (refused.value.code, refused.value.field) == ("settings", "name")
    with pytest.raises(SettingsError, match="has a clip 'one' already"):
        append_clip(data, place, "b", made)
    assert {name: (data / name).read_bytes() for name in files_of(data)} == before


def test_name_that_is_only_listed_is_taken_too(tmp_path):
    for name, line in zip(LISTS, ("a", "videos/one", "tracking/one"), strict=True):
        (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(SettingsError, match="already"):
        check_place(tmp_path, place_of("one", lossless=True))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "a\nb", "-a", "dots.", "c:d"])
def test_name_that_is_no_file_name_everywhere_is_refused(name):
    with pytest.raises(SettingsError, match="use letters, digits") as refused:
        place_of(name, lossless=True)
    assert refused.value.field == "name"


@pytest.mark.parametrize("caption", ["two\nlines", "two\r\nlines", "two\u2028lines", "two\x85lines"])
def test_caption_of_several_lines_is_refused(tmp_path, caption):
    with pytest.raises(SettingsError, match="line break after 'two'; a caption is one line") as refused:
        check_caption(caption)
    assert (refused.value.code, refused.value.field) == ("settings", "caption")
    with pytest.raises(SettingsError):
        append_clip(tmp_path / "data", *with_caption(made_clip(tmp_path, "one"), caption))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("caption", ["", " \n"])
def test_empty_caption_is_refused(caption):
    with pytest.raises(SettingsError, match="no caption"):
        check_caption(caption)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"prompt.txt": "a\nb\n", "videos.txt": "v\n", "trackings.txt": "t\n"}, "differ in length .prompt.txt 2"),
        ({"prompt.txt": "a\n", "videos.txt": "v\n"}, "trackings.txt is missing"),
        ({"prompt.txt": b"\xff\n", "videos.txt": "v\n", "trackings.txt": "t\n"}, "prompt.txt cannot be read"),
    ],
)
def test_dataset_that_does_not_line_up_is_left_alone(tmp_path, lists, words):
    for name, text in lists.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StorageError, match=words):
        append_clip(tmp_path, *with_caption(made_clip(tmp_path / "scratch", "one"), "c"))
    assert not (tmp_path / "videos").exists()


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageError, match="cannot be written to"):
        check_place(tmp_path / "data", place_of("one", lossless=True))


def test_clip_whose_files_are_gone_changes_nothing(tmp_path):
    place, made = made_clip(tmp_path, "one")
    append_clip(tmp_path / "data", place, "a", made)
    with pytest.raises(StorageError):
        append_clip(tmp_path / "data", place_of("two", lossless=True), "b", tmp_path / "nowhere")
    assert lists_of(tmp_path / "data")[0] == ["a"] and not (tmp_path / "data" / STAGING).exists()


def killed_append(data: Path, place, made: Path, steps: int) -> int:
    """Append in a process that dies when it touches the dataset for the time number ``steps``; its exit status."""
    script = f"""
        import os
        from pathlib import Path
        from das_blender_addon.take import clip_folder as dataset_folder
        left = [{steps}]

        def counted(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return function(*arguments, **options)
            return call

        os.replace, Path.unlink = counted(os.replace), counted(Path.unlink)
        dataset_folder.write_whole = counted(dataset_folder.write_whole)
        dataset_folder.append_clip(
            Path({str(data)!r}), dataset_folder.place_of({place.name!r}, lossless=True), "b", Path({str(made)!r})
        )
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, timeout=LIMIT_S).returncode


def test_append_that_is_killed_anywhere_is_finished_or_undone_by_whoever_comes_next(tmp_path):
    outcomes = []
    for steps in range(40):
        data, scratch = tmp_path / f"data {steps}", tmp_path / f"scratch {steps}"
        append_clip(data, *with_caption(made_clip(scratch, "one"), "a"))
        place, made = made_clip(scratch, "two")
        status = killed_append(data, place, made, steps)
        if status == 0:
            break
        check_place(data, place_of("three", lossless=True))
        outcome = lists_of(data)
        assert outcome[0] in (["a"], ["a", "b"])
        assert [len(column) for column in outcome] == [len(outcome[0])] * 3
        assert all((data / path).exists() == ("b" in outcome[0]) for path in place.paths)
        assert not (data / JOURNAL).exists() and not (data / STAGING).exists()
        outcomes.append(outcome[0])
    assert status == 0 and ["a"] in outcomes and ["a", "b"] in outcomes
    assert outcomes == sorted(outcomes)  # from one moment on it counts


def test_lists_that_were_changed_before_a_killed_append_was_finished_are_left_alone(tmp_path):
    append_clip(tmp_path / "data", *with_caption(made_clip(tmp_path, "one"), "a"))
    place, made = made_clip(tmp_path, "two")
    assert killed_append(tmp_path / "data", place, made, 3) != 0
    assert (tmp_path / "data" / JOURNAL).exists()
    (tmp_path / "data" / "prompt.txt").write_text("a\nby hand\n")
    with pytest.raises(StorageError, match="prompt.txt was changed while a clip was being added"):
        check_place(tmp_path / "data", place_of("three", lossless=True))
    assert (tmp_path / "data" / "prompt.txt").read_text() == "a\nby hand\n"


def test_export_waits_for_another_one_and_stops_when_asked(tmp_path):
    script = f"""
        import sys
        from pathlib import Path
        from das_blender_addon.take import clip_folder as dataset_folder
        with dataset_folder._opened(Path({str(tmp_path)!r}), None):
            print("held", flush=True)
            sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(JobCancelled):
            check_place(tmp_path, place_of("one", lossless=True), should_stop=lambda: True)
        asked = []

        def ask() -> bool:
            asked.append(True)
            if len(asked) == 2:
                other.kill()
            return False

        check_place(tmp_path, place_of("one", lossless=True), should_stop=ask)
        assert len(asked) >= 2
    finally:
        other.kill()
        other.wait(LIMIT_S)


def test_lock_that_nobody_lets_go_of_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_folder, "LOCK_WAIT_S", 0.0)
    with dataset_folder._opened(tmp_path, None), pytest.raises(StorageError, match="keeps .* to itself"):
        check_place(tmp_path, place_of("one", lossless=True))
    assert os.listdir(tmp_path) == [dataset_folder.LOCK]
