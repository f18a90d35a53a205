# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiled kernels are kept within bounds of size and age; what was used last stays."""

import os

import pytest

from das_server.workers.compiled import Kept, measure, prune

NOW_S = 1_000_000.0


@pytest.fixture
def folder(tmp_path):
    """Kernels of 100 bytes that were used 0, 10, … 90 s ago, each in folders as the compiler has them."""
    for index in range(10):
        path = tmp_path / "compiled" / f"fx{index % 3}" / f"k{index}" / "größe.py"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (NOW_S - 10 * index, NOW_S - 500))  # read later than written
    return tmp_path / "compiled"


def left(folder):
    return sorted(int(path.parent.name[1:]) for path in folder.rglob("*.py"))


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"most_bytes": 1000, "unused_s": 90.0}, range(10)),
        ({"most_bytes": 450, "unused_s": 90.0}, range(4)),
        ({"most_bytes": 1000, "unused_s": 25.0}, range(3)),
        ({"most_bytes": 0, "unused_s": 90.0}, range(0)),
    ],
)
def test_what_was_used_longest_ago_goes_first(folder, bounds, kept):
    assert measure(folder) == Kept(10, 1000)
    assert prune(folder, now_s=NOW_S, **bounds) == Kept(len(kept), 100 * len(kept)) == measure(folder)
    assert left(folder) == list(kept) and folder.is_dir()
    assert len([path for path in folder.rglob("k*") if path.is_dir()]) == len(kept)  # nor are empty folders left


def test_nothing_there_is_nothing_to_remove(tmp_path):
    assert prune(tmp_path / "none") == measure(tmp_path / "none") == Kept(0, 0)


def test_file_that_cannot_be_removed_is_passed_over(folder, monkeypatch):
    held = folder / "fx0" / "k9" / "größe.py"
    unlink = type(held).unlink
    monkeypatch.setattr(
        type(held), "unlink", lambda path: unlink(path) if path != held else (_ for _ in ()).throw(PermissionError())
    )
    prune(folder, most_bytes=0, now_s=NOW_S)
    assert left(folder) == [9]
