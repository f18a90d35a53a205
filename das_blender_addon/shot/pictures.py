# SPDX-License-Identifier: GPL-3.0-or-later
"""The first frames of a shot on disk, and which one of them counts for a window.  No Blender in here.

    <shot folder>/first_frames/
        0010-<view>-<sha>.png     rendered for frame 10; both names are the first 16 hex digits of a SHA-256: of all
                                  that decides the picture (`first_frame.render_digest`), and of the file itself
        0010-<view>-<sha>.json    how it was rendered, and the digest of its geometry and camera
        0010.png                  put there by somebody, for frame 10
        0010…-kept-1.png          painted, and put aside when a new one was rendered
    <shot folder>/first_frame.png, first_frame.json    as earlier versions had them; only a painted one counts

A name tells what its file held when it was rendered.  A file that holds something else by now was painted over: it is
its painter's, for that frame.  It is used as it is and never written over, and never for a window that begins at
another frame.  Any number of processes may write here: two pictures never share a name, and each is whole or absent.
What was read is passed on as bytes (`FirstFrame`); nobody reads the file a second time.

One file, though long: the names, and which of them counts, are one rule.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..client.files import write_whole
from ..errors import FirstFrameError, StorageError
from ..protocol.png import blob_sha

LOGGER = logging.getLogger(__name__)
REPLACED_IN = "replaced_in"
"""In the record of a painted picture: files, copies of its own, for which it counts no more."""
AS_OF = "as_of"
"""In the record of a rendered picture: when the scene was last read that it shows, seconds since the epoch."""
GIVEN = "given"
"""Origin of a picture that is a file or an image of the user's own."""
DIGITS = 16
"""Hex digits of a SHA-256 in a file's name."""

_NAME = re.compile(rf"(-?\d{{3,}})(?:-([0-9a-f]{{{DIGITS}}})-([0-9a-f]{{{DIGITS}}}))?\.png")


@dataclass(frozen=True)
class FirstFrame:
    """A first frame as it was read, once.

    ``path``: the file that it came from.  ``png``: its bytes.  ``origin``: "rendered" (by us), "painted" (over one of
    ours, or put into its place), "given" (a file of the user's own, by its path) or "shared" (rendered, with what was
    painted for another camera).  ``notes``: what its user should
    know, one sentence each.
    """

    path: Path
    png: bytes
    origin: str
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@dataclass(frozen=True)
class Owner:
    """Whose pictures are asked for.

    ``start``: the frame that a picture of an earlier version, which did not say its frame, is taken for.  ``files``:
    the .blend files whose painted pictures are the shot's own; None for all.  ``camera``: the name of the one that sees
    the shot, where that is not the scene's own, whose names are ``own_cameras``: of other cameras' pictures those count
    that show the same.
    """

    start: int | None = None
    files: Collection[str] | None = None
    camera: str = ""
    own_cameras: Collection[str] = ()

    def sees(self, record: dict) -> bool:
        """Whether the picture with this ``record`` was made for the camera that sees the shot."""
        return str(record.get("camera", "")) in (self.camera, *self.own_cameras)


ANYBODY = Owner()


@dataclass(frozen=True)
class _File:
    """A picture in a shot's folder.  ``view``, ``sha``: what its name says, "" where it says nothing."""

    path: Path
    frame: int
    view: str = ""
    sha: str = ""

    @property
    def record_path(self) -> Path:
        return self.path.with_suffix(".json")


# ── Which one counts ────────────────────────────────────────────────────────────────────────────────────────────────


def find_painted(
    folder: Path,
    frame: int,
    *,
    geometry: str = "",
    owner: Owner = ANYBODY,
    name: str = "first frame",
) -> FirstFrame | None:
    """The picture that somebody painted for ``frame``; of several the one for this ``geometry``, else the newest.

    ``geometry``: `ShotTracking.digest` of the window; a picture that was painted for another one says so in its notes.
    A picture of another file than the ``owner``'s that is still there, its origin or its copy, counts only for the
    geometry that it was painted for.  ``name``: what to call it.  Raises `FirstFrameError` when the file cannot be
    read.
    """
    painted = _painted(folder, frame, geometry, owner)
    if not painted:
        return None
    file = max(painted, key=lambda file: (_geometry_of(file) == geometry, _age_key(file)))
    notes = ()
    if geometry and _geometry_of(file) not in ("", geometry):
        notes = (
            f"The {name} {file.path} was painted for another camera or other geometry at frame {frame}; it is used as "
            "it is: rendering it anew keeps this one under another name.",
        )
    try:
        return FirstFrame(file.path, file.path.read_bytes(), "painted", notes)
    except OSError as error:
        raise FirstFrameError(
            f"The {name} {file.path} cannot be read: {error.strerror}; choose another."
        ) from error


def find_rendered(folder: Path, frame: int, view: str, *, not_before: float = 0.0) -> FirstFrame | None:
    """The picture that was rendered for ``frame`` and ``view`` (`first_frame.render_digest`), the newest of several.

    ``not_before``: seconds since the epoch; an older one does not count.
    """
    files = [file for file in _files(folder) if file.frame == frame and file.view and file.view == view[:DIGITS]]
    for file in sorted(files, key=_age_key, reverse=True):
        try:
            written, png = file.path.stat().st_mtime, file.path.read_bytes()
        except OSError:
            continue
        if blob_sha(png)[:DIGITS] == file.sha and written >= not_before:
            note = f"The picture of frame {frame} was rendered {_age(written)} ago; nothing that is known changed."
            return FirstFrame(file.path, png, "rendered", (note,))
    return None


def painted_elsewhere(
    folder: Path, frame: int, *, owner: Owner = ANYBODY, used: Collection[int] = ()
) -> str:
    """One sentence about painted pictures that do not count for ``frame``: for other frames than those that are
    ``used``, else of another file's camera; "" when there are none.
    """
    painted = [file for file in _files(folder, owner.start) if _is_painted(file)]
    others = sorted((file for file in painted if file.frame not in (frame, *used)), key=lambda file: file.frame)
    foreign = [file for file in painted if file.frame == frame and _is_foreign(file, owner)]
    if foreign:
        record = read_record(foreign[0].path)
        if not owner.sees(record):
            return f"The first frame {foreign[0].path} was painted for another camera of the scene."
        return (
            f"The first frame {foreign[0].path} was painted for another camera or other geometry of the file "
            f"{record['file']}, of which this one is a copy; it is not used."
        )
    if not others:
        return ""
    return (
        f"The first frame {others[0].path} was painted for frame {others[0].frame}; this window begins at frame "
        f"{frame} and does not use it."
    )


def first_frame_path(folder: Path, frame: int, *, owner: Owner = ANYBODY) -> Path:
    """The file of the first frame of ``frame`` that a window would see now: the painted one, else the one rendered
    last; where there is none, the place to put one of your own.
    """
    files = _painted(folder, frame, "", owner) or _rendered(folder, frame, owner)
    if files:
        return max(files, key=_age_key).path
    return place_for(folder, frame)


def first_frame_state(
    folder: Path,
    frame: int,
    digest: str = "",
    *,
    geometry: str = "",
    owner: Owner = ANYBODY,
) -> str:
    """"missing", "user" (painted), "fresh", "stale", or, without a ``digest`` of `first_frame.render_digest` to
    compare, "rendered".
    """
    if _painted(folder, frame, geometry, owner):
        return "user"
    rendered = _rendered(folder, frame, owner)
    if not rendered:
        return "missing"
    if not digest:
        return "rendered"
    return "fresh" if any(file.view == digest[:DIGITS] for file in rendered) else "stale"


def read_record(path: Path) -> dict:
    """What was noted of the rendered picture ``path``; {} for nothing."""
    try:
        record = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def picture_as_of(path: Path) -> float:
    """When the scene was last read that the rendered picture ``path`` shows, seconds since the epoch: as far as is
    known, else when the file was written.
    """
    try:
        return float(read_record(path)[AS_OF])
    except (KeyError, TypeError, ValueError):
        return _age_key(_File(path, 0))[0]


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def keep_rendered(folder: Path, frame: int, view: str, png: bytes, record: dict) -> FirstFrame:
    """Put a picture that was rendered for ``frame`` and ``view`` into the shot's ``folder``.

    One of the same pixels that was painted over stays as it is; the new one lies beside it, with more digits.  Raises
    `StorageError`.
    """
    sha, digits = blob_sha(png), 4
    while True:
        path = _slots(folder) / f"{frame:0{digits}d}-{view[:DIGITS]}-{sha[:DIGITS]}.png"
        _check_place(path)
        if not _is_painted(_File(path, frame, view, sha[:DIGITS])):
            break
        digits = max(digits, len(str(frame))) + 1
    text = json.dumps({**record, "frame": frame, "digest": view, "sha256": sha}, indent=1, sort_keys=True)
    write_whole(path.with_suffix(".json"), text.encode())
    write_whole(path, png)
    return FirstFrame(path, png, "rendered")


def note_as_of(path: Path, as_of: float) -> None:
    """The rendered picture ``path`` shows the scene as it was at ``as_of``, too; nothing is noted where the disk
    refuses.
    """
    record = read_record(path)
    if record and as_of > picture_as_of(path):
        with suppress(StorageError):
            text = json.dumps({**record, AS_OF: as_of}, indent=1, sort_keys=True)
            write_whole(path.with_suffix(".json"), text.encode())


def _check_place(path: Path) -> None:
    """Raise `StorageError` where the system cannot even say whether ``path`` is there."""
    try:
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"The first frame {path} cannot be written: {error.strerror or error}; choose another cache folder."
        ) from error


def rendered_pictures(folder: Path) -> list[Path]:
    """The pictures of the shot's ``folder`` that are as we rendered them, of any frame: they can be rendered again.

    Nothing that somebody painted, put there or had put aside is among them.
    """
    return [file.path for file in _files(folder) if _is_rendered(file)]


def painted_pictures(folder: Path, frame: int, *, owner: Owner = ANYBODY) -> list[Path]:
    """The pictures of which `find_painted` may choose for ``frame``, the newest first; none where only other files'
    are there, of which it may choose none.
    """
    if not _painted(folder, frame, "", owner):
        return []
    files = [file for file in _files(folder, owner.start) if file.frame == frame and _is_painted(file)]
    return [file.path for file in sorted(files, key=_age_key, reverse=True)]


def all_painted_pictures(folder: Path) -> list[Path]:
    """The pictures of the shot's ``folder`` that somebody painted and that count, of any frame."""
    return [file.path for file in _files(folder) if _is_painted(file)]


def painted_for_others(folder: Path, frame: int, camera: str, owner: Owner) -> list[tuple[Owner, Path]]:
    """(whose it is, its file) of the pictures that somebody painted for ``frame`` and another camera than ``camera``
    and those of the ``owner``, the scene; the newest first.
    """
    painted = [file for file in _files(folder, owner.start) if file.frame == frame and _is_painted(file)]
    found = []
    for file in sorted(painted, key=_age_key, reverse=True):
        record = read_record(file.path)
        whose = replace(owner, camera=str(record.get("camera", "")), own_cameras=())
        if whose.camera != camera and not owner.sees(record) and not _is_foreign(file, whose):
            found.append((whose, file.path))
    return found


def painted_frames(folder: Path, owner: Owner) -> list[int]:
    """The frames for which somebody has painted a picture that counts for the ``owner``, whatever it shows."""
    painted = [file for file in _files(folder, owner.start) if _is_painted(file) and not _is_foreign(file, owner)]
    return sorted({file.frame for file in painted})


def free_name(path: Path) -> Path:
    """The first numbered name beside the picture ``path`` that no file has."""
    number = 1
    while (aside := path.with_name(f"{path.stem}-kept-{number}.png")).exists():
        number += 1
    return aside


def put_aside(path: Path) -> Path:
    """Give the picture ``path`` a numbered name, under which it counts no more; returns that.  Raises `OSError`."""
    aside = free_name(path)
    path.rename(aside)
    LOGGER.info("the painted first frame %s is kept as %s", path, aside)
    return aside


def put_aside_painted(
    folder: Path,
    frame: int,
    *,
    geometry: str = "",
    owner: Owner = ANYBODY,
) -> list[Path]:
    """Give the painted pictures that `find_painted` chooses from numbered names, under which they count no more;
    returns those.  Another file's stays in its place, and counts for the ``owner`` no more.

    Raises `StorageError` when the disk refuses: then nothing is to be put in their place.
    """
    kept = []
    for file in _painted(folder, frame, geometry, owner):
        try:
            if _is_foreign(file, owner):
                record = read_record(file.path)
                record[REPLACED_IN] = sorted({*record.get(REPLACED_IN, []), *owner.files})
                write_whole(file.record_path, json.dumps(record, indent=1, sort_keys=True).encode())
            else:
                kept.append(put_aside(file.path))
        except OSError as error:
            raise StorageError(
                f"The painted first frame {file.path} cannot be put aside: {error.strerror}; nothing was rendered over."
            ) from error
    return kept


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def place_for(folder: Path, frame: int) -> Path:
    """Where a picture of the user's own for ``frame`` is put."""
    return _slots(folder) / f"{frame:04d}.png"


def _slots(folder: Path) -> Path:
    return Path(folder) / "first_frames"


def _files(folder: Path, own_start: int | None = None) -> list[_File]:
    """Every picture that may count, of any frame."""
    found = []
    try:
        names = sorted(entry.name for entry in os.scandir(_slots(folder)))
    except OSError:
        names = []
    for name in names:
        said = _NAME.fullmatch(name)
        if said:
            found.append(_File(_slots(folder) / name, int(said[1]), said[2] or "", said[3] or ""))
    earlier = Path(folder) / "first_frame.png"
    if os.path.isfile(earlier):
        record = read_record(earlier)
        frame = record.get("frame", own_start)
        sha = str(record.get("sha256", ""))[:DIGITS] if record.get("maker") == "das" else ""
        if isinstance(frame, int):
            found.append(_File(earlier, frame, sha=sha))
    return found


def _painted(folder: Path, frame: int, geometry: str, owner: Owner) -> list[_File]:
    """The painted pictures that count for ``frame``; see `find_painted`."""
    painted = [file for file in _files(folder, owner.start) if file.frame == frame and _is_painted(file)]
    return [file for file in painted if not _is_foreign(file, owner) or _is_shared(file, geometry, owner)]


def _is_shared(file: _File, geometry: str, owner: Owner) -> bool:
    """Whether another file's picture was painted for this ``geometry``, too, and the owner has not replaced it."""
    record = read_record(file.path)
    refused = record.get(REPLACED_IN, [])
    return bool(geometry) and record.get("geometry") == geometry and not set(owner.files or ()) & set(refused)


def _is_foreign(file: _File, owner: Owner) -> bool:
    """Whether the picture was made for another camera, or another file, which is still there (else this one is it, and
    was moved).
    """
    record = read_record(file.path)
    made_for = str(record.get("file", ""))
    if owner.files is not None and not owner.sees(record):
        return True
    return owner.files is not None and bool(made_for) and made_for not in owner.files and os.path.exists(made_for)


def _rendered(folder: Path, frame: int, owner: Owner) -> list[_File]:
    """The pictures of ``frame`` that are as we rendered them, for the ``owner``'s camera."""
    rendered = [file for file in _files(folder, owner.start) if file.frame == frame and _is_rendered(file)]
    return [file for file in rendered if owner.files is None or owner.sees(read_record(file.path))]


_shas: dict[tuple, str] = {}
"""(path, size, time of its last change) → the sha of a file, so that a panel need not read it for every redraw."""


def _sha(file: _File) -> str:
    """The first digits of the SHA-256 of what ``file`` holds; "" when that is nothing, or the file is gone."""
    try:
        status = file.path.stat()
        key = (file.path, status.st_size, status.st_mtime_ns, status.st_ino)
        if status.st_size and key not in _shas:
            _shas[key] = blob_sha(file.path.read_bytes())[:DIGITS]
        return _shas.get(key, "")
    except FileNotFoundError:
        return ""
    except OSError:  # one that nobody can read is not passed over: whoever wants it is told
        return "unreadable"


def _is_painted(file: _File) -> bool:
    return _sha(file) not in ("", file.sha)


def _is_rendered(file: _File) -> bool:
    return bool(file.sha) and _sha(file) == file.sha


def _geometry_of(file: _File) -> str:
    return str(read_record(file.path).get("geometry", ""))


def _age_key(file: _File) -> tuple[float, str]:
    try:
        return file.path.stat().st_mtime, file.path.name
    except OSError:
        return 0.0, file.path.name


def _age(written: float) -> str:
    """How long ago ``written`` (seconds since the epoch) is, in words."""
    seconds = max(0.0, time.time() - written)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
