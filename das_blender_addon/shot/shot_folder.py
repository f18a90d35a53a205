# SPDX-License-Identifier: GPL-3.0-or-later
"""Which folder of the cache is a shot's: ``<cache>/<file>-<scene>-<id>``, found by its id whatever else its name says.

The id is stored in the scene (`Scene.das.shot_id`), by a button of a window or by saving there, never by a job.  A
scene without one (an old file, a farm, a script) goes by a digest of its file's resolved path and its own exact name,
on which all processes agree that see the file under the same path; that digest becomes its id when it gets one.  So a
file may be renamed or saved under another name and keeps its pictures and takes, and two files or scenes of one name
never share a folder.

A copy of a file has its origin's id.  What is kept by content (rendered pictures, takes) may be shared; a painted
picture counts for a copy only where geometry and camera are the ones that it was painted for (`own_files`).

Earlier versions had ``<cache>/<file>-<scene>``: the first job that finds such a folder and none of its own takes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

import bpy

from ..client.files import folder_refusal, write_whole
from ..errors import StorageError
from ..scene.layers import render_layer
from .pictures import all_painted_pictures, put_aside

LOGGER = logging.getLogger(__name__)
ID_DIGITS = 16
_ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
NAME_LIMIT = 24
"""Bytes (UTF-8) of file, scene and view layer that a folder's name shows; an id tells folders apart.  File systems take
255 in a name, and Windows 260 characters in a path: 211 of them are the longest draft of a take's file below the cache,
which leaves 47 for the cache's own path.
"""
STAY = ("leases", "pending")
"""Folders of a shot that are about processes, and do not go where its file goes."""
OWN = "."
"""What is stored in the view layer that has the shot's own folder."""

_ids: dict[int, str] = {}
"""Scene (`session_uid`) → its id of this session: undo may take it out of the scene again, and a file that is not saved
yet has none.
"""


# ── The id ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def shot_id(scene, *, in_window: bool | None = None) -> str:
    """The id by which the scene's shot goes, 16 hex digits; changes nothing in the scene.

    ``in_window`` None: whether this Blender has one.  There it stays for as long as the file is open, whatever the
    scene's name becomes, and a file that was never saved has one of its own.
    """
    stored = _stored(scene)
    if stored and not _is_duplicate(scene, stored):
        return stored
    if in_window is None:
        in_window = not bpy.app.background
    if not stored and not bpy.data.filepath and in_window:  # a digest another such file would have, too
        chosen = uuid.uuid4().hex[:ID_DIGITS]
    else:
        chosen = _digest(stored or this_file(), scene)
        if any(_stored(other) == chosen for other in bpy.data.scenes):  # of a scene that had this one's name
            chosen = _digest(chosen, scene)
    if in_window:
        _ids[scene.original.session_uid] = chosen
    return chosen


def ensure_shot_id(scene) -> None:
    """Store the scene's id in it, and the folders of its view layers in those, which may be renamed and removed; only
    where its user pressed a button or saves.  A linked scene keeps none.
    """
    scene = scene.original
    if scene.library is not None or not hasattr(scene, "das"):
        return
    chosen = shot_id(scene, in_window=True)
    if scene.das.shot_id != chosen:
        scene.das.shot_id = chosen
    for layer in scene.view_layers:
        folder = _layer_folder(scene.view_layers, layer)
        if layer.das_folder != folder:
            layer.das_folder = folder
    _ids[scene.session_uid] = chosen


def forget_ids() -> None:
    """Another file is opened: the ids of this session were the old one's."""
    _ids.clear()


def _digest(origin: str, scene) -> str:
    return hashlib.sha256(os.fsencode(f"{origin}\n{scene.name_full}")).hexdigest()[:ID_DIGITS]


def _stored(scene) -> str:
    """The id of this session, else the one in the file: a copied scene has its origin's there until it is saved.  What
    is no id does not count: a stranger's file would lead out of the cache.
    """
    settings = getattr(scene, "das", None)  # a scene has none while the extension is not enabled
    kept = settings.shot_id if settings is not None and _ID.fullmatch(settings.shot_id) else ""
    return _ids.get(scene.original.session_uid, "") or kept


def _is_duplicate(scene, stored: str) -> bool:
    """Whether another scene of the file has the same id and was there first: Blender numbers them as they come, and
    those of a file in the order of their names.
    """
    with_it = [other.session_uid for other in bpy.data.scenes if _stored(other) == stored]
    return bool(with_it) and min(with_it) != scene.original.session_uid


# ── The folder ──────────────────────────────────────────────────────────────────────────────────────────────────────


def shot_name(scene) -> str:
    """File and scene in one word that is safe on every system."""
    file = Path(bpy.data.filepath).stem if bpy.data.filepath else "untitled"
    return _safe(f"{file}-{scene.name}")


def shot_folder(scene, cache_folder: str | Path, view_layer: str = "") -> Path:
    """Where the first frames and takes of one of the scene's view layers live below ``cache_folder``; changes nothing
    on disk.

    The scene's first layer has the shot's own folder, any other one below it.  ``view_layer`` "": the layer that a take
    outside of a render is made of, the first one that renders.
    """
    return _shot_folder(scene, cache_folder) / _below(scene, view_layer)


def _below(scene, view_layer: str) -> Path:
    layers = scene.original.view_layers
    layer = layers[view_layer or render_layer(scene).name]
    folder = _layer_folder(layers, layer)
    return Path() if folder == OWN else Path("layers") / folder


def _layer_folder(layers, layer) -> str:
    """The folder of one of the ``layers``: what is stored in it, else a name that no other one has; `OWN` for the
    shot's own, which the first layer has.
    """
    stored = _stored_folder(layers, layer)
    if stored:
        return stored
    taken = {_stored_folder(layers, other).casefold() for other in layers if other != layer}
    if layer == layers[0] and OWN not in taken:
        return OWN
    before = layers[: list(layers).index(layer)]
    taken |= {other.name.casefold() for other in before if not _stored_folder(layers, other)}
    shown = cut(_safe(layer.name), NAME_LIMIT)
    is_plain = shown == layer.name and bool(shown.strip("."))
    if is_plain and shown.casefold() not in taken:
        return shown
    again = " again" if is_plain else ""  # another layer has this name, or had it when it got its folder
    return f"{shown}-{hashlib.sha256((layer.name + again).encode()).hexdigest()[:8]}"


def _stored_folder(layers, layer) -> str:
    """What `ensure_shot_id` stored in ``layer``, "" for nothing; a copied layer has its origin's, which does not
    count.
    """
    stored = getattr(layer, "das_folder", "")  # a layer has none while the extension is not enabled
    if not stored or _safe(stored) != stored or (stored != OWN and not stored.strip(".")):
        return ""
    same = stored.casefold()  # disks of Windows and macOS take both for one
    first = next(other for other in layers if getattr(other, "das_folder", "").casefold() == same)
    return stored if first == layer else ""


def _shot_folder(scene, cache_folder: str | Path) -> Path:
    cache, identity = Path(cache_folder), shot_id(scene)
    found = _folder_of(cache, identity)
    if found is not None:
        return found
    earlier = cache / shot_name(scene)
    if os.path.isdir(earlier) and _may_take_over(scene):  # whose name may be longer than any can be
        return earlier
    return cache / _new_name(scene, identity)


def take_over_folder(scene, cache_folder: str | Path, view_layer: str = "") -> Path:
    """`shot_folder` for a job that will write there: a folder of an earlier version gets its new name."""
    return _take_over(scene, cache_folder) / _below(scene, view_layer)


def _take_over(scene, cache_folder: str | Path) -> Path:
    folder = _shot_folder(scene, cache_folder)
    identity = shot_id(scene)
    if folder.name.endswith(f"-{identity}") or not os.path.isdir(folder):
        return folder
    target = folder.with_name(_new_name(scene, identity))
    try:
        folder.rename(target)
    except OSError as error:  # a cache that is only read, or another process was first
        LOGGER.info("%s keeps its name: %s", folder, error)
        return _shot_folder(scene, cache_folder)
    LOGGER.info("%s of an earlier version is now %s", folder, target)
    return target


def _folder_of(cache: Path, identity: str) -> Path | None:
    try:
        names = sorted(entry.name for entry in os.scandir(cache) if entry.name.endswith(f"-{identity}"))
    except OSError:
        return None
    return cache / names[0] if names else None


def _new_name(scene, identity: str) -> str:
    file = Path(bpy.data.filepath).stem if bpy.data.filepath else "untitled"
    return f"{cut(_safe(file), NAME_LIMIT)}-{cut(_safe(scene.name), NAME_LIMIT)}-{identity}"


def _may_take_over(scene) -> bool:
    """Whether a folder of an earlier version is rather this scene's than another's of the file."""
    same = sorted(
        (other.name for other in bpy.data.scenes if _safe(other.name) == _safe(scene.name)),
        key=lambda name: (name != _safe(name), name),
    )
    return not same or same[0] == scene.name


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def cut(name: str, limit_bytes: int) -> str:
    """The beginning of ``name`` that has at most ``limit_bytes`` in UTF-8, in whole characters."""
    return name.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def check_cache(folder: Path, shot: Path | None = None) -> None:
    """Raise `StorageError` when nothing can be written into the cache ``folder``; not where it holds takes of the
    ``shot`` (its folder in there): they can be read.
    """
    refusal = folder_refusal(folder)
    if refusal and (shot is None or not _holds_takes(shot)):
        raise StorageError(
            f"The cache folder {folder} cannot be written to: {refusal}; choose another one with --cache, DAS_CACHE, "
            "or in the preferences.",
            field="cache_folder",
        )


def _holds_takes(shot: Path) -> bool:
    try:
        return any(shot.glob("takes/*/take.json"))
    except OSError:  # nobody may look there
        return False


# ── Files that are saved under another name ─────────────────────────────────────────────────────────────────────────


def own_files(folder: Path) -> frozenset[str]:
    """The files whose painted pictures in ``folder`` are the open file's own: itself, and those that it was saved from
    under another name.
    """
    here = this_file()
    return frozenset((here, *_read_origins(folder).get(here, ())))


def this_file() -> str:
    """The open file's resolved path, "" for one that was never saved."""
    return os.path.realpath(bpy.data.filepath) if bpy.data.filepath else ""


def follow(old: Path, new: Path, old_file: str, new_file: str) -> None:
    """The file was saved under another name: its pictures come along, those of ``old_file`` are its own too.

    Pictures are copied, takes linked (they are never written twice).  Raises `StorageError`.
    """
    try:
        if old != new and old.is_dir() and not new.exists():
            ignored = shutil.ignore_patterns(*STAY, ".*")
            shutil.copytree(old, new, copy_function=_copy_or_link, ignore=ignored)
        elif old != new and old.is_dir():
            _bring(old, new, files_in(old))
            _bring_painted(old, new)
    except (OSError, shutil.Error) as error:
        raise StorageError(f"The first frames in {old} cannot be copied to {new}: {error}.") from error
    _note_origin(new, old_file, new_file)


def follow_late(old: Path, new: Path, old_file: str, new_file: str, known: Collection[Path]) -> None:
    """`follow` for what a job has made since: the files of ``old`` that are not ``known``.  Raises `StorageError`."""
    try:
        if old != new:
            _bring(old, new, files_in(old) - set(known))
    except OSError as error:
        raise StorageError(f"What was made in {old} cannot be copied to {new}: {error}.") from error
    _note_origin(new, old_file, new_file)


def _bring(old: Path, new: Path, files: Iterable[Path]) -> None:
    """Copy or link the ``files`` in ``old`` that ``new`` lacks."""
    for path in sorted(files):
        target = new / path.relative_to(old)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_or_link(str(path), str(target))


def _bring_painted(old: Path, new: Path) -> None:
    """What was painted in ``old`` counts in ``new``, too; another painting that is there is put aside."""
    for folder in (old, *(old / "layers").glob("*")):
        for path in all_painted_pictures(folder):
            target = new / path.relative_to(old)
            if target.read_bytes() == path.read_bytes():
                continue
            if target in all_painted_pictures(new / folder.relative_to(old)):
                put_aside(target)
            write_whole(target, path.read_bytes())


def files_in(folder: Path) -> set[Path]:
    """Every file of a shot's ``folder`` that goes where its .blend file goes."""
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and not _stays(path.relative_to(folder).parts)
    }


def _stays(parts: Iterable[str]) -> bool:
    return any(part in STAY or part.startswith(".") for part in parts)


def _note_origin(new: Path, old_file: str, new_file: str) -> None:
    if old_file and old_file != new_file and new.is_dir():
        origins = _read_origins(new)
        origins[new_file] = sorted({old_file, *origins.get(old_file, ()), *origins.get(new_file, ())} - {new_file})
        write_whole(new / "shot.json", json.dumps({"saved_from": origins}, indent=1, sort_keys=True).encode())


def _copy_or_link(source: str, target: str) -> None:
    if f"{os.sep}takes{os.sep}" not in source:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk: a take that is missing is made anew
        LOGGER.debug("%s does not come along", source)


def _read_origins(folder: Path) -> dict[str, list[str]]:
    try:
        said = json.loads((Path(folder) / "shot.json").read_text(encoding="utf-8"))["saved_from"]
        return {str(file): [str(one) for one in origins] for file, origins in said.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
