# SPDX-License-Identifier: GPL-3.0-or-later
"""What the weights of a model are called, so that frames of other weights are never taken for theirs.  No torch.

The *revision* is a digest of the checkpoint's content: SHA-256 of the sorted list of its files with sizes and digests.
No file is digested twice: digests are taken from the model's manifest where the file is as old as that, and are kept
with the file's size, times and inode.  Large files that were never read are digested in a thread; until that is done,
the revision is the *fingerprint*, a digest of sizes, times and inodes alone, which no other weights have either.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from das_blender_addon.errors import ModelError

from .estimators import ABOUT_NAME, estimator_folder, estimator_specs
from .registry import COMPONENTS, MANIFEST_NAME, model_path

_log = logging.getLogger(__name__)

DECIDING_SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".onnx", ".pt", ".jinja")
"""Endings of the files of a checkpoint that have a say in the pixels."""

QUICK_BYTES = 64 << 20
"""A checkpoint with no more bytes to digest than this is digested while the server starts."""

CACHE_NAME = "weight_digests.json"


@dataclass(frozen=True)
class _File:
    """One file of a checkpoint as its folder shows it.  ``changed_ns``: of its content or its inode, the later."""

    path: Path
    name: str
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @property
    def look(self) -> list[int]:
        """What is different when the file is another one, without reading it."""
        return [self.size_bytes, self.modified_ns, self.changed_ns, self.inode]


def folder_of(name: str) -> Path:
    """Where the weights of a model or an estimator are, or would have to be.  Raises `ModelError` for an unknown
    name."""
    return estimator_folder(name) if name in estimator_specs() else model_path(name)


def fingerprint(folder: Path) -> str:
    """Digest of the looks of a checkpoint's files on this machine; "" where there are none."""
    return _fingerprint(_files(folder))


class Revisions:
    """The revisions of the installed models.  ``state``: the folder in which digests are kept.  Thread-safe."""

    def __init__(self, state: Path, *, folder_of: Callable[[str], Path] = folder_of):
        self._cache = state / CACHE_NAME
        self._folder_of = folder_of
        self._lock = threading.Lock()
        self._digests: dict[str, list] = _read_cache(self._cache)
        self._known: dict[str, tuple[str, str]] = {}
        self._wanted: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None

    def learn(self, name: str, *, at_most: int = QUICK_BYTES) -> None:
        """Digest what is not known of a model's files, unless it is more than so many bytes."""
        files = _files(self._folder_of(name))
        unread = self._unread(self._folder_of(name), files)
        if sum(one.size_bytes for one in unread) <= at_most:
            self._digest(unread)

    def of(self, name: str) -> str:
        """The revision of a model's weights as they are now; its fingerprint where the digest is not known yet."""
        folder = self._folder_of(name)
        files = _files(folder)
        look = _fingerprint(files)
        known_look, known = self._known.get(name, ("", ""))
        if look == known_look:
            return known
        if self._unread(folder, files):
            self._ask(folder, look)
            return look
        with self._lock:
            listed = [[one.name, one.size_bytes, self._digests[os.fspath(one.path)][-1]] for one in files]
        revision = hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else ""
        self._known[name] = look, revision
        return revision

    def check(self, name: str, revision: str) -> str:
        """The fingerprint of the model's weights, if ``revision`` ("" for any) means them; else a `ModelError`."""
        look = fingerprint(self._folder_of(name))
        if revision and revision not in (self.of(name), look):
            raise ModelError(
                f"The weights of {name} have been replaced since this job was planned; render again to use the new "
                "ones.",
                field="model",
            )
        return look

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _unread(self, folder: Path, files: list[_File]) -> list[_File]:
        """The files whose digests are not known, after a look at the manifest."""
        with self._lock:
            unread = [one for one in files if self._digests.get(os.fspath(one.path), [])[:-1] != one.look]
            if unread:
                listed = _from_manifest(folder, unread)
                self._digests.update({os.fspath(one.path): [*one.look, sha] for one, sha in listed.items()})
                unread = [one for one in unread if one not in listed]
        return unread

    def _ask(self, folder: Path, look: str) -> None:
        if look in self._asked:
            return
        self._asked.add(look)
        self._wanted.put(folder)
        if self._thread is None:
            self._thread = threading.Thread(target=self._read_wanted, name="weights", daemon=True)
            self._thread.start()

    def _read_wanted(self) -> None:
        while True:
            folder = self._wanted.get()
            try:
                self._digest(self._unread(folder, _files(folder)))
            except Exception:  # the fingerprint serves as well
                _log.exception("the weights in %s cannot be digested", folder)

    def _digest(self, files: list[_File]) -> None:
        for one in files:
            try:
                with open(one.path, "rb") as file:
                    sha = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                _log.warning("%s cannot be read: %s", one.path, error.strerror)
                continue
            with self._lock:
                self._digests[os.fspath(one.path)] = [*one.look, sha]
        if files:
            _log.info("%s files of weights were digested", len(files))
            self._write_cache()

    def _write_cache(self) -> None:
        with self._lock:
            text = json.dumps(self._digests, indent=1, sort_keys=True)
            draft = self._cache.with_suffix(f".{os.getpid()}.tmp")
            try:
                draft.write_text(text, encoding="utf-8")
                os.replace(draft, self._cache)
            except OSError as error:  # they are digested once more after the next start
                _log.warning("%s cannot be written: %s", self._cache, error.strerror)


def _files(folder: Path) -> list[_File]:
    """The files of a checkpoint that decide pixels, sorted by name; one that vanishes meanwhile is left out."""
    paths = [folder / "model_index.json"]
    is_estimator = (folder / ABOUT_NAME).is_file()
    if is_estimator:
        paths = [path for path in folder.rglob("*") if path.suffix in DECIDING_SUFFIXES and path.name != MANIFEST_NAME]
    for component in () if is_estimator else COMPONENTS:
        try:
            paths += [path for path in (folder / component).iterdir() if path.suffix in DECIDING_SUFFIXES]
        except OSError:
            continue
    files = []
    for path in sorted(paths):
        try:
            stat = path.stat()
        except OSError:
            continue
        # Where the system keeps it, the time of the last change of the inode: nobody can set it.
        changed_ns = stat.st_mtime_ns if os.name == "nt" else max(stat.st_mtime_ns, stat.st_ctime_ns)
        name = path.relative_to(folder).as_posix()
        files.append(_File(path, name, stat.st_size, stat.st_mtime_ns, changed_ns, stat.st_ino))
    return files


def _fingerprint(files: list[_File]) -> str:
    looks = [[one.name, *one.look] for one in files]
    return hashlib.sha256(json.dumps(looks).encode()).hexdigest() if looks else ""


def _from_manifest(folder: Path, files: list[_File]) -> dict[_File, str]:
    """Digests that the model's manifest has of files which have not changed since it was written."""
    manifest = folder / MANIFEST_NAME
    try:
        written_ns = manifest.stat().st_mtime_ns
        entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        listed = {name: (str(one["sha256"]), int(one["size_bytes"])) for name, one in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    can_tell = os.name != "nt"
    return {
        one: listed[one.name][0]
        for one in files
        if can_tell and one.changed_ns < written_ns and listed.get(one.name, ("", -1))[1] == one.size_bytes
    }


def _read_cache(path: Path) -> dict[str, list]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: look for name, look in said.items() if isinstance(look, list)} if isinstance(said, dict) else {}
