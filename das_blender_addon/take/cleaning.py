# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies in a cache, how large it is, and what of it can be thrown away because it can be made again: takes,
previews of the tracking video, rendered first frames.  No Blender in here.

Everything else stays: painted pictures, those that were put aside, and files that are nobody's idea of a cache.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..shot.pictures import rendered_pictures

TAKES, PREVIEWS, FIRST_FRAMES, KEPT = "takes", "previews", "first frames", "kept"
DISPOSABLE = (TAKES, PREVIEWS, FIRST_FRAMES)
GONE = ".gone"
"""Ends the name of the folder of a take that was deleted and is still being removed."""
STAR = "starred"
"""A file of this name in a take's folder keeps it."""
UNFINISHED_S = 86400.0
"""A take without an end that nobody has written to for so long is not being made any more."""

_KEY, _FRAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"\d{4,}\.png")
"""Names of takes' folders and of previews' files."""
_ID = re.compile(r"-[0-9a-f]{16}$")
"""Ends the name of a shot's folder; nobody reads it."""


@dataclass(frozen=True)
class Piece:
    """One thing in a cache: a take's folder, a folder of previews, a first frame, or what else there is (`KEPT`).

    ``shot``: name of the shot's folder, without its id.
    """

    kind: str
    shot: str
    path: Path
    size_bytes: int


# ── What is there ───────────────────────────────────────────────────────────────────────────────────────────────────


def pieces_of(caches: Iterable[Path], used_takes: Collection[str] = ()) -> list[Piece]:
    """Everything in the ``caches``.  ``used_takes``: keys of takes that are on a strip; those, and starred ones, count
    as kept."""
    found = []
    for cache in dict.fromkeys(Path(cache) for cache in caches):
        for folder in _folders(cache):
            if any((folder / name).is_dir() for name in ("takes", "first_frames", "tracking_preview", "layers")):
                found += _pieces_of_shot(folder, _ID.sub("", folder.name), used_takes)
    return found


def _pieces_of_shot(folder: Path, shot: str, used_takes: Collection[str]) -> Iterator[Piece]:
    for take in _folders(folder / "takes"):
        # Else somebody's folder of that name.
        is_ours = _KEY.fullmatch(take.name) is not None or _is_gone(take)
        is_kept = take.name in used_takes or is_starred(take) or _is_being_made(take)
        kind = TAKES if is_ours and not is_kept else KEPT
        yield Piece(kind, shot, take, _size(take))
    previews = folder / "tracking_preview"
    if previews.is_dir():
        yield Piece(PREVIEWS, shot, previews, sum(map(_size, _frames_in(previews))))
    rendered = set(rendered_pictures(folder))
    for path in rendered:
        yield Piece(FIRST_FRAMES, shot, path, _size(path) + _size(path.with_suffix(".json")))
    records = {path.with_suffix(".json") for path in rendered}
    for path in (*_files(folder / "first_frames"), *_files(folder)):
        if path not in rendered and path not in records:
            yield Piece(KEPT, shot, path, _size(path))
    for layer in _folders(folder / "layers"):
        yield from _pieces_of_shot(layer, f"{shot}, {layer.name}", used_takes)


def total_bytes(pieces: Iterable[Piece], *kinds: str) -> int:
    """The size of the ``pieces`` of these ``kinds``, of all where none is named."""
    return sum(piece.size_bytes for piece in pieces if not kinds or piece.kind in kinds)


def size_in_words(size_bytes: int) -> str:
    """Like "1.2 GB"."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= length:
            return f"{size_bytes / length:.1f} {unit}"
    return f"{size_bytes} bytes"


def by_shot(pieces: Iterable[Piece]) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Each shot with what can be thrown away of it, the largest first: kind → (how many, their size in bytes)."""
    shots: dict[str, dict[str, list[Piece]]] = {}
    for piece in pieces:
        shots.setdefault(piece.shot, {}).setdefault(piece.kind, []).append(piece)
    counted = [
        (shot, {kind: (len(its[kind]), total_bytes(its[kind])) for kind in DISPOSABLE if kind in its})
        for shot, its in shots.items()
    ]
    return sorted(counted, key=lambda one: -sum(size for _, size in one[1].values()))


# ── Throwing away ───────────────────────────────────────────────────────────────────────────────────────────────────


def aside(folder: Path) -> Path:
    """Take the take in ``folder`` away at once, however many files it has; returns where it lies until `remove_gone`.
    Raises `OSError`.
    """
    gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}{GONE}")
    os.rename(folder, gone)
    return gone


def remove_gone(takes: Path) -> None:
    """Delete what was put `aside` in the folder ``takes``, now or by a Blender that ended meanwhile; what a disk
    refuses stays for the next time."""
    for folder in takes.glob(f".*{GONE}"):
        shutil.rmtree(folder, ignore_errors=True)


def throw_away(
    pieces: Iterable[Piece], remove: Callable[[Collection[Path]], None] | None = None
) -> tuple[int, list[str]]:
    """Delete the ``pieces``; returns how many bytes that freed, and why something stayed, one sentence each.

    A first frame that was painted over since it was found stays, and so does a take that was starred.  ``remove`` is
    given the folders in which takes were put `aside`, whose many files are to be deleted; without, that is done here.
    """
    freed, refused, folders = 0, [], set()
    for piece in pieces:
        if piece.kind not in DISPOSABLE:
            continue
        try:
            if _delete(piece):
                freed += piece.size_bytes
                folders |= {piece.path.parent} if piece.kind == TAKES else set()
        except OSError as error:
            refused.append(f"{piece.path} cannot be deleted: {error.strerror or error}.")
    if remove is not None:
        remove(folders)
    else:
        for folder in folders:
            remove_gone(folder)
    return freed, refused


def _delete(piece: Piece) -> bool:
    if piece.kind == FIRST_FRAMES:
        folder = piece.path.parent.parent if piece.path.parent.name == "first_frames" else piece.path.parent
        if piece.path not in rendered_pictures(folder):
            return False
        piece.path.unlink()
        piece.path.with_suffix(".json").unlink(missing_ok=True)
        return True
    if piece.kind == PREVIEWS:
        for path in _frames_in(piece.path):
            path.unlink(missing_ok=True)
        if not any(piece.path.iterdir()):
            piece.path.rmdir()
        return True
    if is_starred(piece.path):
        return False
    if not _is_gone(piece.path):
        aside(piece.path)
    return True


# ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _frames_in(previews: Path) -> list[Path]:
    return [path for path in _files(previews) if _FRAME.fullmatch(path.name)]


def is_starred(take: Path) -> bool:
    """Whether the take in the folder ``take`` is starred now."""
    return (take / STAR).exists()


def _is_gone(take: Path) -> bool:
    return take.name.startswith(".") and take.name.endswith(GONE)


def _is_being_made(take: Path) -> bool:
    if (take / "take.json").is_file() or _is_gone(take):
        return False
    newest = max((_changed(path) for path in (take, *_walk(take))), default=0.0)
    return time.time() - newest < UNFINISHED_S


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    except OSError:
        return []


def _walk(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def _size(path: Path) -> int:
    try:
        return sum(one.stat().st_size for one in _walk(path)) if path.is_dir() else path.stat().st_size
    except OSError:  # it changes while it is looked at
        return 0
