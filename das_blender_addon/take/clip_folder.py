# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of training clips in the public layout, to which clips are added one at a time.  No Blender in here.

    <folder>/prompt.txt, videos.txt, trackings.txt    one line per clip in each, in the same order: its caption, and
                                                      the paths of its two videos, relative to the folder
    videos/<name>.mp4, tracking/<name>.mp4            what the camera sees, and its 3D tracking video; for a lossless
                                                      clip folders of PNG files of the same name, 0001.png and so on
    first_frames/<name>.png                           the first frame of the video, lossless

A clip is added as a whole or not at all, whoever dies meanwhile: its files wait in ``.appending/`` until
``.appending.json`` says what is to be done, and from then on whoever opens the folder next does it to the end.
``.lock`` is held for as long as somebody writes, so that a farm can export many clips into one folder.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..client.files import write_whole
from ..errors import JobCancelled, SettingsError, StorageError

LOGGER = logging.getLogger(__name__)
LISTS = ("prompt.txt", "videos.txt", "trackings.txt")
STAGING, JOURNAL, LOCK = ".appending", ".appending.json", ".lock"
LOCK_WAIT_S = 120.0
"""Seconds that another export may take to put its clip into the folder."""
POLL_S = 0.1

_NAME = re.compile(r"\w[\w.-]*")
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@dataclass(frozen=True)
class ClipPlace:
    """Where a clip lies in its dataset: paths relative to the folder, ``/`` between their parts.

    ``video`` and ``tracking``: a video file, or a folder of PNG files where the clip is lossless.
    """

    name: str
    video: str
    tracking: str
    first_frame: str

    @property
    def paths(self) -> tuple[str, str, str]:
        """All of it."""
        return self.video, self.tracking, self.first_frame


def place_of(name: str, *, lossless: bool) -> ClipPlace:
    """Where the clip ``name`` belongs.  Raises `SettingsError` for a name that is no file name everywhere."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise SettingsError(
            f"The clip's name is {name!r}; use letters, digits, '_', '-' and '.', a letter or digit first.",
            field="name",
        )
    ending = "" if lossless else ".mp4"
    return ClipPlace(name, f"videos/{name}{ending}", f"tracking/{name}{ending}", f"first_frames/{name}.png")


def check_caption(caption: str) -> str:
    """``caption`` without the space around it.  Raises `SettingsError` when it is empty or no single line."""
    text = caption.strip()
    if not text:
        raise SettingsError(
            "The clip has no caption; write what it shows, here or as the scene's prompt.", field="caption"
        )
    if len(text.splitlines()) > 1:
        raise SettingsError(
            f"The caption has a line break after {text.splitlines()[0]!r}; a caption is one line.", field="caption"
        )
    return text


def check_place(folder: Path, place: ClipPlace, should_stop: Callable[[], bool] | None = None) -> None:
    """Open the dataset ``folder``, or begin one, and see that the clip can be added.

    Raises `SettingsError` (there is a clip of that name), `StorageError` (the folder cannot be written to, its lists
    do not line up, another export does not let go of it), `JobCancelled`.
    """
    with _opened(folder, should_stop):
        _check_free(folder, place)


def append_clip(
    folder: Path,
    place: ClipPlace,
    caption: str,
    made: Path,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Copy the clip's files from the folder ``made``, where they lie as in ``place``, and list it with ``caption``.

    Raises as `check_caption` and `check_place`, also for a disk that is full: the dataset is then as it was.
    """
    caption = check_caption(caption)
    with _opened(folder, should_stop):
        count = _check_free(folder, place)
        try:
            shutil.copytree(made, folder / STAGING)
        except OSError as error:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise _refused(folder, error) from error
        lines = dict(zip(LISTS, (caption, place.video, place.tracking), strict=True))
        note = {"count": count, "lines": lines, "files": place.paths}
        write_whole(folder / JOURNAL, json.dumps(note, ensure_ascii=False, indent=1).encode())
        _finish_append(folder)
    LOGGER.info("%s has %d clips, the last one is %s", folder, count + 1, place.name)


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(folder: Path, should_stop: Callable[[], bool] | None) -> Iterator[None]:
    """Hold the folder's lock; whatever an export that died has left is finished or cleared away before."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise _refused(folder, error) from error
    with file:  # closing it, or dying, lets go of the lock
        try:
            _wait_for_lock(folder, file, should_stop)
        except OSError as error:
            raise _refused(folder, error) from error
        if (folder / JOURNAL).exists():
            _finish_append(folder)
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        yield


def _wait_for_lock(folder: Path, file, should_stop: Callable[[], bool] | None) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while not _lock(file):
        if should_stop is not None and should_stop():
            raise JobCancelled("The export of the clip was cancelled.")
        if time.monotonic() > deadline:
            raise StorageError(f"Another export keeps {folder} to itself; wait until it is done.")
        time.sleep(POLL_S)


def _lock(file) -> bool:
    """Take the lock on ``file`` if nobody has it; the system frees it when its process ends, however that ends."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _finish_append(folder: Path) -> None:
    """Do what the journal says and was not done yet: move the files to their places, then write the lists."""
    journal = folder / JOURNAL
    try:
        note = json.loads(journal.read_text(encoding="utf-8"))
        for path in note["files"]:
            if (folder / STAGING / path).exists():
                (folder / path).parent.mkdir(exist_ok=True)
                os.replace(folder / STAGING / path, folder / path)
    except OSError as error:
        raise _refused(folder, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{journal} is damaged; remove it and export its clip again.") from error
    for name, line in note["lines"].items():
        lines = _read_list(folder / name)
        if lines[note["count"] :] == [line]:
            continue
        if len(lines) != note["count"]:
            raise StorageError(
                f"{folder / name} was changed while a clip was being added; take out what was added and remove "
                f"{journal}."
            )
        write_whole(folder / name, "".join(f"{line}\n" for line in (*lines, line)).encode())
    journal.unlink()
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def _check_free(folder: Path, place: ClipPlace) -> int:
    """How many clips the folder has, when none of them is in the way of ``place``."""
    present = [name for name in LISTS if (folder / name).exists()]
    if present and len(present) < len(LISTS):
        missing = next(name for name in LISTS if name not in present)
        raise StorageError(f"{folder / missing} is missing beside {present[0]}; choose another folder.")
    columns = [_read_list(folder / name) for name in LISTS]
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(f"{name} {len(column)}" for name, column in zip(LISTS, columns, strict=True))
        raise StorageError(f"The lists of {folder} differ in length ({counts}); repair them or choose another folder.")
    taken = [path for path in place.paths if os.path.lexists(folder / path)]
    taken += [path for path in place.paths if path in columns[1] or path in columns[2]]
    if taken:
        raise SettingsError(
            f"{folder} has a clip {place.name!r} already ({taken[0]}); choose another name.", field="name"
        )
    return len(columns[0])


def _read_list(path: Path) -> list[str]:
    """The lines of a list; a file that is not there has none."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}); repair it or choose another folder.") from error
    return text.split("\n") if text else []


def _refused(folder: Path, error: OSError) -> StorageError:
    why = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error
    return StorageError(f"{folder} cannot be written to ({why}); free some space or choose another folder.")
