# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are whole or absent."""

import resource

import pytest

from das_blender_addon.client.files import holds, write_whole
from das_blender_addon.errors import StorageError
from das_blender_addon.protocol.frames import blob_sha


def test_file_is_written_into_a_new_folder_and_nothing_else_stays(tmp_path):
    path = tmp_path / "a" / "b" / "0001.png"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]


def test_empty_file_is_refused(tmp_path):
    with pytest.raises(StorageError, match="would be empty"):
        write_whole(tmp_path / "0001.png", b"")
    assert list(tmp_path.iterdir()) == []


def test_disk_that_refuses_is_a_storage_error_and_leaves_no_draft(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="cannot be written: File exists; free some space"):
        write_whole(tmp_path / "file" / "0001.png", b"one")
    (tmp_path / "0002.png").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_whole(tmp_path / "0002.png", b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0002.png", "file"]


def test_disk_that_is_full_in_the_middle_is_a_storage_error_and_keeps_the_old_file(tmp_path):
    """The system's limit on the size of a file stands for a full disk: the write fails after some bytes."""
    path = tmp_path / "0001.png"
    write_whole(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(StorageError, match="0001.png cannot be written: File too large; free some space"):
            write_whole(path, bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_holds_compares_the_content(tmp_path):
    path = tmp_path / "x"
    assert not holds(path, blob_sha(b""))
    path.write_bytes(b"one")
    assert holds(path, blob_sha(b"one")) and not holds(path, blob_sha(b"two"))
