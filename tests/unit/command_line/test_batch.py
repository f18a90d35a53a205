# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of shots: what is read, what is refused before any work, and what one failing row does."""

import pytest

from das_blender_addon.command_line.batch import read_rows, run_rows
from das_blender_addon.errors import JobCancelled, SettingsError

FLAGS, SWITCHES = frozenset({"--seed", "--prompt", "--output", "--frames"}), frozenset({"--clean"})


def rows_of(tmp_path, text, encoding="utf-8"):
    table = tmp_path / "shots.csv"
    table.write_text(text, encoding=encoding)
    return read_rows(table, FLAGS, SWITCHES)


def test_rows_become_words(tmp_path):
    rows = rows_of(
        tmp_path,
        'File,seed,prompt,output,clean\na.blend,3,"a vase, red",out/a,yes\n\nsub/b.blend,,,//b,0\n',
        "utf-8-sig",
    )
    assert [row.number for row in rows] == [1, 2]
    assert rows[0].words == (
        str(tmp_path / "a.blend"), "--seed=3", "--prompt=a vase, red", f"--output={tmp_path / 'out/a'}", "--clean"
    )  # fmt: skip
    assert rows[1].words == (str(tmp_path / "sub/b.blend"), "--output=//b")


@pytest.mark.parametrize("parted_by", [";", "\t"])
def test_cells_may_be_parted_as_spreadsheets_part_them(tmp_path, parted_by):
    quoted = '"rot; ""neu"",\n grün"'
    lines = (("File", "seed", "prompt"), ("ä, b/'1'.blend", "3", quoted), ("", "", ""), (), ("c.blend", "", ""))
    rows = rows_of(tmp_path, "\r\n".join(map(parted_by.join, lines)), "utf-8-sig")
    assert [row.words[1:] for row in rows] == [("--seed=3", '--prompt=rot; "neu",\n grün'), ()]
    assert rows[0].words[0] == str(tmp_path / "ä, b/'1'.blend") and rows[1].number == 2


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "no rows"),
        ("file,seed\n", "no rows"),
        ("seed\n3\n", "has no column file"),
        ("file,sead\na,3\n", "has a column 'sead'"),
        ("file,seed,seed\na,3,4\n", "'seed' twice"),
        ("file,seed\na,3,4\n", "Row 1 .* more cells"),
        ("file,seed\na,3\n,4\n", "Row 2 .* names no file"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, text, sentence):
    with pytest.raises(SettingsError, match=sentence):
        rows_of(tmp_path, text)


def test_table_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_rows(path, FLAGS, SWITCHES)
    (tmp_path / "bytes.csv").write_bytes(b"file\n\xff\xfe\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_rows(tmp_path / "bytes.csv", FLAGS, SWITCHES)


def test_failing_row_does_not_stop_the_others_and_its_status_counts(tmp_path):
    rows, ran = rows_of(tmp_path, "file\na\nb\nc\n"), []

    def run(words):
        ran.append(words)
        return 12 if words[0].endswith("b") else 0

    status, told = run_rows(rows, run, lambda row: None, ["--json"])
    assert status == 12 and [one["exit_code"] for one in told] == [0, 12, 0] and ran[0][-1] == "--json"


def test_cancel_ends_the_table(tmp_path):
    rows = rows_of(tmp_path, "file\na\nb\n")
    status, told = run_rows(rows, lambda words: JobCancelled.exit_code, lambda row: None, [])
    assert status == JobCancelled.exit_code and len(told) == 1
