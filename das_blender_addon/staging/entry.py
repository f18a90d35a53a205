# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture or a clip, by its file, → a scene: what scripts and the entries of the menu call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import bpy

from ..client.connection import ShouldStop
from ..errors import SettingsError
from ..footage.alignment import Alignment
from ..footage.plane import Room
from ..footage.repainting import Repaint
from .beside import in_blender
from .clip_importing import ClipWish, positions_folder, prepare_clip
from .clip_source import is_footage
from .importing import PLANE, PlateWish, prepare_picture
from .stage import Stage


def import_plate(
    picture: str | Path,
    *,
    depth: str | Path | None = None,
    size: tuple[int, int] | None = None,
    num_frames: int = 0,
    every: int = 0,
    **known,
) -> Stage:
    """The picture or clip ``picture`` (a movie, a folder of pictures or of a clip's plate) as a new scene: `Stage` with
    ``.scene``, ``.camera``, ``.things`` (mask → object), ``.plate`` (of a clip: of its first picture) and ``.notes``.

    ``depth``: "plane" or a depth file; None for what is known.  ``size`` (width, height): the render's; None for the
    picture's.  ``num_frames``: of the shot, from frame 1 on; 0 for 49, of a clip for all.  ``every``: pixels along the
    side of a quad of the meshes; 0 for 1, of a clip for 2.  ``known``: the other fields of `PlateWish` (``lens_mm``,
    ``masks``, ``depth_kind``, …) and of `footage.plane.Room` (``horizon``, ``wall``, …), of a clip those of `ClipWish`
    (``tracks``, ``camera``, ``first``, …) and ``first_picture`` (a file in the place of its own), ``repaint`` (words
    that its own is painted anew by, or a `footage.repainting.Repaint`), ``alignment`` (`footage.alignment.Alignment`),
    ``positions`` (the folder of its PC2 files; without it one beside the open file).  ``server``: whom "auto", masks
    and ``repaint`` ask.

    Raises `FirstFrameError` (no picture or clip that can be used), `SettingsError` (depth, lens, mask, tracks, a cut, a
    field that does not exist), `ModelError` (what the server lacks), `SceneError` (a camera that cannot be found),
    `StorageError`.
    """
    known |= {"depth": depth, "size": size, "num_frames": num_frames, "every": every}
    return prepare_plate(picture, **known)()


def prepare_plate(
    picture: str | Path,
    *,
    depth: str | Path | None = None,
    size: tuple[int, int] | None = None,
    num_frames: int = 0,
    every: int = 0,
    should_stop: ShouldStop | None = None,
    **known,
) -> Callable[[], Stage]:
    """All of `import_plate` that takes time; what is returned makes the scene, on the thread that may touch Blender.

    In any thread below `beside.beside_blender`.  Arguments and errors as of `import_plate`, and `JobCancelled`.
    """
    path = in_blender(lambda: Path(os.path.realpath(bpy.path.abspath(str(picture)))))
    if is_footage(path):
        return _clip(path, "" if depth is None else str(depth), size, num_frames, every, should_stop, known)
    _check_names(known, PlateWish, ("picture", "depth", "should_stop"))
    wish = PlateWish(path, PLANE if depth is None else str(depth), should_stop=should_stop, **_with_room(known))
    return prepare_picture(wish, size=size, num_frames=num_frames or 49, every=every or 1)


def _clip(path: Path, depth: str, size, num_frames: int, every: int, should_stop, known: dict) -> Callable[[], Stage]:
    _check_names(known, ClipWish, ("clip", "depth"), ("first_picture", "repaint", "alignment", "positions"))
    known = _with_room(known)
    alignment = known.pop("alignment", Alignment())
    first, positions = known.pop("first_picture", None), known.pop("positions", None)
    repaint = known.pop("repaint", None)
    folder = in_blender(lambda: positions_folder(None)) if positions is None else Path(positions)
    wish = ClipWish(path, depth=depth, num_frames=num_frames, **known)
    stage_it, _ = prepare_clip(
        wish,
        folder=folder,
        size=size,
        every=every,
        first_picture=None if first is None else Path(in_blender(lambda: bpy.path.abspath(str(first)))),
        repaint=Repaint(repaint) if isinstance(repaint, str) else repaint,
        alignment=alignment,
        should_stop=should_stop,
    )

    def finish() -> Stage:
        stage = stage_it()
        if bpy.data.filepath:
            positions_beside(stage.scene, Path(bpy.data.filepath))
        return stage

    return finish


def positions_beside(scene, blend: Path) -> bool:
    """The scene's clip positions are found relative to the open file ``blend``, wherever both are moved to; whether
    there are any that were not.
    """
    changed = False
    for shape in scene.objects:
        for cache in shape.modifiers:
            if cache.type == "MESH_CACHE" and not cache.filepath.startswith("//"):
                try:
                    relative = os.path.relpath(cache.filepath, blend.parent)
                except ValueError:  # on another drive
                    continue
                cache.filepath, changed = "//" + relative.replace(os.sep, "/"), True
    return changed


def _check_names(known: dict, wish: type, given: tuple[str, ...], more: tuple[str, ...] = ()) -> None:
    names = {one.name for one in (*fields(wish), *fields(Room))} - set(given) | set(more)
    unknown = sorted(set(known) - names)
    if unknown:
        raise SettingsError(f"There is no {unknown[0]!r}; there are {', '.join(sorted(names))}.", field=unknown[0])


def _with_room(known: dict) -> dict:
    """``known`` with what it says of a room in one: as fields of a wish."""
    room = {one.name: known[one.name] for one in fields(Room) if one.name in known}
    rest = {name: value for name, value in known.items() if name not in room}
    return {**rest, "room": replace(rest.get("room", Room()), **room)}
