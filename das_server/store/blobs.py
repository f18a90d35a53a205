# SPDX-License-Identifier: GPL-3.0-or-later
"""Blobs on disk by their SHA-256: resumable uploads in, pieces out, nothing half written under its final name.

    blobs/ab/abcd…      complete, checked, flushed to disk before it is said to exist
    incoming/abcd….part an upload under way, of one sender
    checkpoints/…       where jobs that are lost go on, written by workers
    damaged/abcd…       a blob whose content no longer has its SHA-256

The endpoint and its workers use the same folder: a worker stores results with `add`, the endpoint hands them out.
One thread uploads, reads and collects; another may look, use and delete meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from das_blender_addon.errors import MessageTooLarge, ProtocolError, StorageError
from das_blender_addon.protocol.digest import Digest, Digests
from das_server.limits import MAX_UPLOADS
from das_server.store.appending import append

_log = logging.getLogger(__name__)

DISK, NODE_DISK = "disk", "node_disk"
"""Field of the error where a disk is full, the server's or a worker's own: what failed may be tried again."""

SHA_PATTERN = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """The two folders.  ``max_blob_bytes``: largest blob; ``min_free_bytes``: disk space that uploads must leave."""

    def __init__(self, folder: Path, *, max_blob_bytes: int = 512 << 20, min_free_bytes: int = 0):
        self._blobs = folder / "blobs"
        self._incoming = folder / "incoming"
        self._damaged = folder / "damaged"
        self._checkpoints = folder / "checkpoints"
        self._max_blob_bytes = max_blob_bytes
        self._min_free_bytes = min_free_bytes
        self._digests = Digests()
        self._hashes: dict[str, tuple[int, Digest]] = {}
        self._lasting: set[Path] = set()  # folders that are on the disk themselves
        self._deleting = threading.Lock()
        self._unneeded: dict[str, float] = {}
        self.full = ""
        """Why no upload is taken for now."""
        with storage_errors(f"the folder {folder}"):
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._incoming.mkdir(parents=True, exist_ok=True)

    def path(self, sha: str) -> Path:
        """Where the blob is or would be; raises `ProtocolError` if ``sha`` is not 64 lower-case hex digits."""
        if not SHA_PATTERN.fullmatch(sha):
            raise ProtocolError(f"{sha[:80]!r} is not a SHA-256 in lower-case hex.", field="sha")
        return self._blobs / sha[:2] / sha

    def size_bytes(self, sha: str) -> int | None:
        """Size of a complete blob, None if it is not there; raises `StorageError` if the disk does not say."""
        return _size_bytes(self.path(sha))

    def received_bytes(self, sha: str, sender: str = "", *, is_known: bool = True) -> int:
        """How many bytes from the start are on disk, of a complete blob (where ``is_known`` to the sender) or of an
        upload."""
        size = self.size_bytes(sha) if is_known else None
        return size if size is not None else _size_bytes(self._part(sha, sender)) or 0

    def put(
        self,
        sha: str,
        size_bytes: int,
        offset: int,
        piece: bytes | memoryview,
        *,
        sender: str = "",
        is_known: bool = True,
    ) -> int:
        """Take one piece of an upload and return how many bytes from the start are there now.

        A piece that starts after those is not written, one that overlaps them is written from there on.  The last piece
        checks the SHA-256 and makes the blob visible.  Uploads of different senders do not meet; where it is not
        ``is_known``, a blob that is there is taken once more, so that nobody learns of it who does not have it.  Raises
        `MessageTooLarge`, `ProtocolError` (wrong size or content: the upload is thrown away), `StorageError` (disk
        full).
        """
        path = self.path(sha)
        if size_bytes > self._max_blob_bytes:
            raise MessageTooLarge(
                f"A blob of {size_bytes} bytes is over this server's limit of {self._max_blob_bytes}.",
                field="size_bytes",
            )
        if size_bytes < 0 or offset < 0 or offset + len(piece) > size_bytes:
            raise ProtocolError(
                f"A piece of {len(piece)} bytes at {offset} lies outside a blob of {size_bytes} bytes.", field="offset"
            )
        if is_known and _touch(path):
            return self.received_bytes(sha)
        part = self._part(sha, sender)
        received = _size_bytes(part) or 0
        if received > size_bytes:
            self._forget_upload(part)
            received = 0
        fresh = memoryview(piece)[received - offset :] if offset <= received else memoryview(b"")
        if len(fresh):
            if not received:
                self._make_room_for(part)
            self._check_space(size_bytes - received)
            self._append(part, received, fresh)
            received += len(fresh)
        if received == size_bytes and (len(fresh) or size_bytes == 0 or not len(piece)):
            self._finish(sha, part, size_bytes)
        return received

    def add(self, content: bytes) -> tuple[str, int]:
        """Store a whole blob → (sha, size in bytes); raises `StorageError`."""
        sha = hashlib.sha256(content).hexdigest()
        path = self.path(sha)
        if _touch(path):
            return sha, len(content)
        part = self._incoming / f"{sha}.{secrets.token_hex(8)}.part"
        with storage_errors(f"the blob {sha[:12]}"):
            try:
                with open(part, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self._publish(part, path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        return sha, len(content)

    def read(self, sha: str, offset: int = 0, length: int | None = None) -> bytes:
        """A piece of a complete blob; raises `StorageError` if that is missing, `ProtocolError` if it is shorter."""
        try:
            with open(self.path(sha), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                length = size if length is None else length
                if offset < 0 or length < 0 or offset > size:
                    raise ProtocolError(
                        f"A piece of {length} bytes at {offset} lies outside a blob of {size} bytes.", field="offset"
                    )
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError as error:
            raise no_blob(sha) from error
        except OSError as error:
            raise StorageError(f"The server cannot read the blob {sha[:12]}…: {error.strerror}.") from error

    def read_whole(self, sha: str) -> bytes:
        """All of a complete blob, checked; raises `StorageError` if it is missing, or damaged, and then set aside."""
        content = self.read(sha)
        if hashlib.sha256(content).hexdigest() != sha:
            self._set_aside(sha)
            raise StorageError(
                f"The stored blob {sha[:12]}… is damaged and was set aside in {self._damaged}; render again to send or "
                "make it anew.",
                field="sha",
            )
        return content

    def is_whole(self, sha: str, size_bytes: int) -> bool:
        """Whether the blob is there with this size and content; a damaged one is set aside."""
        try:
            return len(self.read_whole(sha)) == size_bytes
        except StorageError:
            return False

    def _set_aside(self, sha: str) -> None:
        with storage_errors(f"the folder {self._damaged}"):
            self._damaged.mkdir(exist_ok=True)
            os.replace(self.path(sha), self._damaged / sha)
        _log.error("the blob %s is damaged and was set aside in %s", sha, self._damaged)

    def let_go(self, shas: Iterable[str], *, before_s: float) -> None:
        """Have these blobs deleted by the next `delete_unneeded`, but for those that are used until then or were stored
        after that Unix time: a running job may need them."""
        with self._deleting:
            self._unneeded.update((sha, min(before_s, time.time())) for sha in shas)

    @property
    def has_unneeded(self) -> bool:
        """Whether `delete_unneeded` has something to do."""
        return bool(self._unneeded)

    def delete_unneeded(self) -> None:
        """Delete what was `let_go`; a blob that cannot be deleted is left for later."""
        while True:
            with self._deleting:
                if not self._unneeded:
                    return
                sha, before_s = self._unneeded.popitem()
                gone = self._take_away(self.path(sha), before_s)
            if gone is not None:
                _unlink(gone)

    def use(self, sha: str) -> int | None:
        """Size of a complete blob, which counts as used now and so is not collected; None if it is not there."""
        with self._deleting:
            self._unneeded.pop(sha, None)
            return self.size_bytes(sha) if _touch(self.path(sha)) else None

    def old(self, before_s: float) -> list[str]:
        """SHAs of blobs that were used last before that Unix time; uploads and jobs' checkpoints that were are
        deleted."""
        for path in self._incoming.glob("*.part"):
            if _delete_old(path, before_s):
                self._hashes.pop(path.name, None)
        for path in self._checkpoints.glob("*"):
            _delete_old(path, before_s)
        return [path.name for path in self._blobs.glob("??/*") if _is_old(path, before_s)]

    def kept(self) -> list[tuple[float, str, int]]:
        """(Unix time of its last use, SHA, size in bytes) of every blob, those that were used longest ago first."""
        found = []
        for path in self._blobs.glob("??/*"):
            with contextlib.suppress(OSError):  # deleted meanwhile
                stat = path.stat()
                found.append((stat.st_mtime, path.name, stat.st_size))
        return sorted(found)

    def delete_old(self, shas: Iterable[str], before_s: float) -> int:
        """Delete those of ``shas`` that nobody used since that Unix time → how many."""
        count = 0
        for sha in shas:
            with self._deleting:
                gone = self._take_away(self.path(sha), before_s)
            count += gone is not None and _unlink(gone)
        return count

    def _take_away(self, path: Path, before_s: float) -> Path | None:
        """Move a blob that was last used before then to where nobody finds it → there, None where it stays.  Quick, as
        deleting a large file is not."""
        gone = self._incoming / f"{path.name}.{secrets.token_hex(8)}.part"
        try:
            if path.stat().st_mtime > before_s:
                return None
            os.replace(path, gone)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s is not cleared away: %s", path, error.strerror)
            return None
        return gone

    def _part(self, sha: str, sender: str = "") -> Path:
        name = f".{hashlib.sha256(sender.encode()).hexdigest()[:16]}" if sender else ""
        return self._incoming / f"{sha}{name}.part"

    def _check_space(self, wanted_bytes: int) -> None:
        if self.full:
            raise StorageError(self.full)
        free = shutil.disk_usage(self._incoming).free
        if free - wanted_bytes < self._min_free_bytes:
            raise StorageError(
                f"The server's disk has {free >> 20} MiB free; an upload of {wanted_bytes >> 20} MiB would leave "
                f"less than the {self._min_free_bytes >> 20} MiB it must keep."
            )

    def _make_room_for(self, part: Path) -> None:
        """Let the oldest upload of a sender go that has begun too many."""
        sender = part.name.split(".")[1]
        open_ones = [one for one in self._incoming.glob("*.part") if one.name.split(".")[1] == sender and one != part]
        if len(open_ones) >= MAX_UPLOADS:
            self._forget_upload(min(open_ones, key=lambda one: one.stat().st_mtime))

    def _append(self, part: Path, received: int, piece: memoryview) -> None:
        known, running = self._hashes.get(part.name) or (0, self._digests.begin())
        with storage_errors("an upload"):
            if known != received:
                running = self._hash_file(part)
            try:
                append(part, received, piece)
            except OSError:
                self._hashes.pop(part.name, None)
                raise
        running.update(piece)
        self._hashes[part.name] = (received + len(piece), running)

    def _finish(self, sha: str, part: Path, size_bytes: int) -> None:
        with storage_errors(f"the blob {sha[:12]}"):
            part.touch()
            known, running = self._hashes.pop(part.name, None) or (-1, None)
            if known != size_bytes:
                running = self._hash_file(part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())  # while what came last is still being hashed
            if running.hexdigest() != sha:
                self._forget_upload(part)
                raise ProtocolError(
                    f"The upload {sha[:12]}… is damaged: its content does not have that SHA-256; send it again.",
                    field="sha",
                )
            self._publish(part, self.path(sha))

    def _publish(self, part: Path, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        os.replace(part, path)
        _flush_folder(path.parent)
        if path.parent not in self._lasting:
            _flush_folder(self._blobs)
            self._lasting.add(path.parent)

    def _hash_file(self, path: Path) -> Digest:
        running = self._digests.begin()
        if path.exists():
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    running.update(piece)
        return running

    def _forget_upload(self, part: Path) -> None:
        self._hashes.pop(part.name, None)
        part.unlink(missing_ok=True)


def no_blob(sha: str) -> StorageError:
    """The server does not have the blob, or not for whoever asks."""
    return StorageError(
        f"The server does not have the blob {sha[:12]}…; it was never uploaded or is already forgotten.", field="sha"
    )


@contextmanager
def storage_errors(thing: str) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names ``thing``, with the field `DISK` where that is full."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "its disk is full" if full else str(error.strerror or error)
        raise StorageError(f"The server cannot write {thing}: {reason}.", field=DISK if full else None) from error


def _size_bytes(path: Path) -> int | None:
    """Size of a file, None if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"The server cannot read the blob {path.name[:12]}…: {error.strerror}.") from error


def _touch(path: Path) -> bool:
    """Mark as used now; False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"The server cannot use the blob {path.name[:12]}…: {error.strerror}.") from error
    return True


def _is_old(path: Path, before_s: float) -> bool:
    try:
        return path.stat().st_mtime <= before_s
    except OSError:  # deleted meanwhile, or not to be deleted now
        return False


def _delete_old(path: Path, before_s: float) -> bool:
    """Delete a file that was last used before then (Unix time) → whether it is gone; one that refuses stays."""
    try:
        return path.stat().st_mtime <= before_s and _unlink(path)
    except OSError as error:
        _log.warning("%s is not cleared away: %s", path, error.strerror)
        return False


def _unlink(path: Path) -> bool:
    """Whether the file is gone; one that refuses stays."""
    try:
        path.unlink()
    except OSError as error:
        _log.warning("%s is not cleared away: %s", path, error.strerror)
        return False
    return True


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
