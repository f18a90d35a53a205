# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs on disk: resumable, checked, never half there."""

import hashlib
import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from das_blender_addon.errors import MessageTooLarge, ProtocolError, StorageError
from das_server.store.blobs import BlobStore

ROOT = Path(__file__).resolve().parents[4]
CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()
PIECE = 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path, max_blob_bytes=1 << 20)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def send(blobs: BlobStore, start: int, stop: int) -> int:
    received = start
    for offset in range(start, stop, PIECE):
        received = blobs.put(SHA, len(CONTENT), offset, memoryview(CONTENT)[offset : min(offset + PIECE, stop)])
    return received


def test_upload_in_pieces_becomes_blob_when_it_is_whole(blobs):
    assert send(blobs, 0, 5000) == 5000
    assert blobs.size_bytes(SHA) is None
    assert send(blobs, 5000, len(CONTENT)) == len(CONTENT)
    assert blobs.read(SHA) == CONTENT
    assert blobs.read(SHA, 300, 7) == CONTENT[300:307]


def test_upload_goes_on_after_restart_where_it_was(tmp_path, blobs):
    send(blobs, 0, 5000)
    restarted = BlobStore(tmp_path)
    assert restarted.put(SHA, len(CONTENT), 0, b"") == 5000
    assert send(restarted, 5000, len(CONTENT)) == len(CONTENT)
    assert restarted.read(SHA) == CONTENT


def test_upload_ignores_gap_and_takes_rest_of_overlap(blobs):
    send(blobs, 0, 3000)
    assert blobs.put(SHA, len(CONTENT), 4000, CONTENT[4000:5000]) == 3000
    assert blobs.put(SHA, len(CONTENT), 2500, CONTENT[2500:3500]) == 3500
    assert blobs.put(SHA, len(CONTENT), 0, CONTENT[:1000]) == 3500
    assert send(blobs, 3500, len(CONTENT)) == len(CONTENT)


def test_upload_of_what_is_there_is_done_at_once(blobs):
    blobs.add(CONTENT)
    assert blobs.put(SHA, len(CONTENT), 0, b"") == len(CONTENT)


def test_upload_with_wrong_content_is_thrown_away(tmp_path, blobs):
    with pytest.raises(ProtocolError, match="damaged"):
        blobs.put(SHA, len(CONTENT), 0, CONTENT[:-1] + b"?")
    assert files(tmp_path) == []
    assert blobs.put(SHA, len(CONTENT), 0, CONTENT) == len(CONTENT)


def test_upload_of_nothing_works(blobs):
    empty = hashlib.sha256(b"").hexdigest()
    assert blobs.put(empty, 0, 0, b"") == 0
    assert blobs.read(empty) == b""


@pytest.mark.parametrize(("size", "offset", "length"), [(10, 5, 6), (10, 11, 0), (0, 0, 1)])
def test_upload_refuses_piece_outside(tmp_path, blobs, size, offset, length):
    with pytest.raises(ProtocolError, match="outside"):
        blobs.put(SHA, size, offset, b"x" * length)
    assert files(tmp_path) == []


def test_upload_refuses_blob_over_limit(tmp_path, blobs):
    with pytest.raises(MessageTooLarge, match="limit of 1048576"):
        blobs.put(SHA, (1 << 20) + 1, 0, b"x")
    assert files(tmp_path) == []


@pytest.mark.parametrize("sha", ["", "..", "../../etc/passwd", "A" * 64, SHA[:-1], SHA + "0", SHA[:-1] + "\n"])
def test_odd_name_never_reaches_disk(blobs, sha):
    for use in (blobs.path, blobs.read, blobs.size_bytes, lambda sha: blobs.put(sha, 1, 0, b"x")):
        with pytest.raises(ProtocolError, match="SHA-256"):
            use(sha)


def test_upload_is_refused_when_disk_would_be_full(tmp_path):
    blobs = BlobStore(tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(StorageError, match="MiB free"):
        blobs.put(SHA, len(CONTENT), 0, CONTENT)
    assert files(tmp_path) == []


def test_refused_write_leaves_nothing_half_and_goes_on_later(tmp_path):
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from das_blender_addon.errors import StorageError; from das_server.store.blobs import BlobStore\n"
        "from tests.unit.server.store.test_blobs import CONTENT, SHA\n"
        "blobs = BlobStore(Path(sys.argv[1])); blobs.put(SHA, len(CONTENT), 0, CONTENT[:4000])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (6000, {resource.RLIM_INFINITY}))\n"
        "put, add = lambda: blobs.put(SHA, len(CONTENT), 4000, CONTENT[4000:]), lambda: blobs.add(CONTENT + b'!')\n"
        "for write in (put, add):\n"
        "    try:\n        write()\n    except StorageError as error:\n        print(error)\n"
        "print(blobs.put(SHA, len(CONTENT), 0, b''))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, {resource.RLIM_INFINITY}))\n"
        "print(blobs.put(SHA, len(CONTENT), 4000, CONTENT[4000:]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = answer.stdout.splitlines()
    assert len(lines) == 4, answer.stderr
    assert "disk is full" in lines[0] and "disk is full" in lines[1]
    assert lines[2:] == ["4000", str(len(CONTENT))]
    assert files(tmp_path) == [SHA]


def test_add_stores_once_and_read_tells_what_is_missing(tmp_path, blobs):
    assert blobs.add(CONTENT) == (SHA, len(CONTENT)) == blobs.add(CONTENT)
    assert files(tmp_path) == [SHA]
    with pytest.raises(StorageError, match="does not have the blob"):
        blobs.read("0" * 64)
    with pytest.raises(ProtocolError, match="outside"):
        blobs.read(SHA, len(CONTENT) + 1, 1)


def test_collection_deletes_old_blobs_and_uploads_that_nobody_needs(tmp_path, blobs):
    kept, _ = blobs.add(b"kept")
    unused, _ = blobs.add(b"unused")
    send(blobs, 0, 2000)
    later = time.time() + 100
    assert blobs.old(later - 200) == []
    assert set(blobs.old(later - 50)) == {kept, unused}
    assert blobs.delete_old([unused], later - 50) == 1
    assert files(tmp_path) == [kept]
    assert send(blobs, 0, len(CONTENT)) == len(CONTENT)


def test_blob_that_is_used_meanwhile_is_not_collected(blobs):
    sha, _ = blobs.add(CONTENT)
    os.utime(blobs.path(sha), (1000, 1000))
    assert blobs.old(time.time() - 3600) == [sha]
    assert blobs.use(sha) == len(CONTENT) and blobs.use("0" * 64) is None
    assert blobs.delete_old([sha], time.time() - 3600) == 0 and blobs.read(sha) == CONTENT


def test_damaged_blob_is_found_set_aside_and_can_be_stored_again(tmp_path, blobs):
    sha, size = blobs.add(CONTENT)
    assert blobs.read_whole(sha) == CONTENT and blobs.is_whole(sha, size) and not blobs.is_whole(sha, size + 1)
    path = blobs.path(sha)
    path.write_bytes(b"?" + CONTENT[1:])
    with pytest.raises(StorageError, match="damaged and was set aside"):
        blobs.read_whole(sha)
    assert blobs.size_bytes(sha) is None and not blobs.is_whole(sha, size)
    assert (tmp_path / "damaged" / sha).read_bytes() == b"?" + CONTENT[1:]
    blobs.add(CONTENT)
    assert blobs.is_whole(sha, size)


def test_unneeded_blob_goes_unless_it_was_stored_again_or_is_used_meanwhile(tmp_path, blobs):
    stored, used, gone = (blobs.add(CONTENT + letter)[0] for letter in (b"a", b"b", b"c"))
    for sha in (stored, used, gone):
        os.utime(blobs.path(sha), (1000, 1000))
    began = time.time() - 1
    blobs.add(CONTENT + b"a")
    blobs.let_go([stored, used, gone, "0" * 64], before_s=began)
    assert blobs.has_unneeded and blobs.size_bytes(gone) is not None
    os.utime(blobs.path(used), (1000, 1000))
    assert blobs.use(used) == len(CONTENT) + 1
    os.utime(blobs.path(used), (1000, 1000))  # even on a disk that keeps no times
    blobs.delete_unneeded()
    assert not blobs.has_unneeded and files(tmp_path) == sorted([stored, used])
    blobs.let_go([stored], before_s=float("inf"))
    blobs.delete_unneeded()
    assert files(tmp_path) == [used]


@pytest.mark.skipif(os.name == "nt", reason="folders are not flushed there")
def test_blob_and_the_folders_that_are_new_with_it_are_flushed_before_it_is_there(tmp_path, monkeypatch):
    store, flushed, flush = BlobStore(tmp_path), [], os.fsync
    first, second = two_of_one_folder()
    folder = store.path(sha256(first)).parent

    def noting(descriptor):
        flushed.append(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    for blob, folders in ((first, [folder, folder.parent]), (second, [folder])):
        flushed.clear()
        store.put(sha256(blob), len(blob), 0, blob)
        assert flushed == [one.stat().st_ino for one in (store.path(sha256(blob)), *folders)]
    flushed.clear()
    BlobStore(tmp_path).add(two_of_one_folder(after=second)[0])  # who knows what it finds
    assert len(flushed) == 3


def two_of_one_folder(after=b""):
    """Two blobs whose SHAs begin alike."""
    seen = {}
    for number in itertools.count(1):
        blob = after + bytes([number % 256, number // 256])
        other = seen.setdefault(sha256(blob)[:2], blob)
        if other is not blob:
            return other, blob
