# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes that the last renders of this session made, one of each view layer, for as long as nothing has changed
since: they are answered without export, server or disk but for their frames.

Blender tells of every change of a file's data by an update of a depsgraph; going to another frame is none.  For a
Blender with a window: elsewhere nothing evaluates between two renders, so nothing is told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ..client.files import holds
from ..scene.appearance import shading_digest
from ..scene.camera import pixel_aspect, render_size
from ..scene.colours import kept_look
from ..scene.named import image_named
from ..shot.open_pictures import holds_more, strokes_on
from ..shot.resolved import KeyChoice, ResolvedSettings
from ..shot.scene_shot import frames_per_second
from ..take.finished import FinishedTake
from .sources import picture_file

LIMIT = 8
"""Takes that are kept at most: each has its tracking video in memory."""
_CONTENT = """OBJECT MESH CURVE CURVES META POINTCLOUD VOLUME LATTICE ARMATURE KEY ACTION PARTICLE COLLECTION CAMERA
    LIGHT WORLD MATERIAL TEXTURE NODETREE""".split()
"""Kinds of data that a take is made of."""

_changes = 0
"""How many changes Blender has told of in this session."""
_kept: dict[tuple[str, str], _Kept] = {}
"""(scene, view layer) → its take, the last one last."""


@dataclass(frozen=True)
class Asked:
    """All that a take was made for.  ``changes``: how many there were until then.  ``at``: seconds since the epoch."""

    changes: int
    scene: str
    view_layer: str
    settings: ResolvedSettings
    picture: tuple
    shading: str
    cameras: tuple
    at: float = field(compare=False)


@dataclass(frozen=True)
class _Kept:
    """A take, all that it was made for, and its key pictures as they were then."""

    asked: Asked
    take: FinishedTake
    pictures: tuple


def now(scene, view_layer: str, settings: ResolvedSettings) -> Asked:
    """What a take of ``scene`` would be made for now."""
    markers = sorted((marker.frame, marker.camera.name_full) for marker in scene.timeline_markers if marker.camera)
    return Asked(
        changes=_changes,
        scene=scene.name,
        view_layer=view_layer,
        settings=replace(settings, anew=False),
        picture=(
            *render_size(scene), *pixel_aspect(scene), frames_per_second(scene), *sorted(kept_look(scene).items()),
            scene.render.frame_map_old, scene.render.frame_map_new,
        ),
        shading=shading_digest(scene.original, scene.original.view_layers[view_layer]),
        cameras=(scene.camera.name_full if scene.camera else "", *markers),
        at=time.time(),
    )


def find(scene, view_layer: str, settings: ResolvedSettings) -> FinishedTake | None:
    """The take that was made for exactly this, None when there is none or its frames are gone."""
    kept = _kept.get((scene.name, view_layer))
    if kept is None or settings.new_first_frame or settings.anew or kept.asked != now(scene, view_layer, settings):
        return None
    if kept.pictures != _pictures(scene, view_layer, settings, kept.take):
        return None
    return kept.take if all(path.is_file() for path in kept.take.take.frames) else None


def keep(asked: Asked, take: FinishedTake) -> None:
    """``take`` was made for what was ``asked``; unless something has changed meanwhile it is the one of its view layer
    from now on.
    """
    global _kept
    scene = bpy.data.scenes.get(asked.scene)
    if scene is None or asked.changes != _changes:
        return
    key = (asked.scene, asked.view_layer)
    others = [(name, kept) for name, kept in _kept.items() if name != key and kept.asked.changes == _changes]
    pictures = _pictures(scene, asked.view_layer, asked.settings, take)
    if pictures is not None and not any(_painted_since(picture, asked) for picture in pictures):
        others.append((key, _Kept(asked, take, pictures)))
    _kept = dict(others[-LIMIT:])


def _painted_since(picture: tuple, asked: Asked) -> bool:
    """Whether somebody painted it while the take was made: it is not what the take was made from."""
    path, _, changed_ns, sha = picture
    return changed_ns >= asked.at * 1e9 and not holds(path, sha)


def _pictures(scene, view_layer: str, settings: ResolvedSettings, take: FinishedTake) -> tuple | None:
    """Which files the key pictures of ``take`` are, their state, and the SHA-256 of what the take was made from; None
    where one is not what a file holds: nobody tells of strokes.
    """
    own = {choice.frame: choice for choice in (settings.first, *(settings.key_pictures or ()))}
    found = []
    for used in take.take.report["key_pictures"]:
        choice = own.get(used["frame"], KeyChoice(used["frame"]))
        path = picture_file(scene, settings, choice, view_layer)
        if choice.image:
            image = image_named(choice.image)
            if image is None or image.source != "FILE" or holds_more(image):
                return None
            path = Path(bpy.path.abspath(image.filepath, library=image.library))
        elif strokes_on(path) is not None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None
        found.append((path, status.st_size, status.st_mtime_ns, used["sha256"]))
    return tuple(found)


@persistent
def count_changes(_scene, depsgraph):
    """Blender has updated something."""
    global _changes
    if any(_is_change(update) for update in depsgraph.updates) or _changed_elsewhere(depsgraph):
        _changes += 1


def _is_change(update) -> bool:
    """Whether it may change a take: not the render result, nor what the user only looks at."""
    if isinstance(update.id, bpy.types.Image):
        return update.id.type not in ("RENDER_RESULT", "COMPOSITING")
    if isinstance(update.id, bpy.types.Screen | bpy.types.WindowManager | bpy.types.WorkSpace):
        return False
    if isinstance(update.id, bpy.types.Scene):
        return update.is_updated_geometry or update.is_updated_transform or update.is_updated_shading
    return True


def _changed_elsewhere(depsgraph) -> bool:
    """Whether something has changed that only a view layer that no window shows has: its kind is told, not itself.
    (A selection is told by the scene, and as a kind of objects.)
    """
    return not depsgraph.updates and any(map(depsgraph.id_type_updated, _CONTENT))


@persistent
def forget(*_):
    """Another file is opened; what a job makes for this one is of no use there."""
    global _changes
    _changes += 1
    _kept.clear()


def register():
    """From now on changes are counted."""
    bpy.app.handlers.depsgraph_update_post.append(count_changes)
    bpy.app.handlers.load_pre.append(forget)


def unregister():
    """Undo `register`."""
    bpy.app.handlers.load_pre.remove(forget)
    bpy.app.handlers.depsgraph_update_post.remove(count_changes)
    forget()
