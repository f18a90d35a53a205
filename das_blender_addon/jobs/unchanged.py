# SPDX-License-Identifier: GPL-3.0-or-later
"""The take that the last render of this session made, for as long as nothing has changed since: it is answered without
export, server or disk but for its frames.

Blender tells of every change of a file's data by an update of a depsgraph; going to another frame is none.  Only in a
window: elsewhere nothing evaluates between two renders, so nothing is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
from bpy.app.handlers import persistent

from ..scene.appearance import shading_digest
from ..scene.camera import pixel_aspect, render_size
from ..scene.colours import kept_look
from ..shot.resolved import ResolvedSettings
from ..take.finished import FinishedTake

_changes = 0
"""How many changes Blender has told of in this session."""
_kept: tuple[Asked, FinishedTake] | None = None


@dataclass(frozen=True)
class Asked:
    """All that a take was made for.  ``changes``: how many there were until then."""

    changes: int
    scene: str
    view_layer: str
    settings: ResolvedSettings
    picture: tuple
    shading: str
    cameras: tuple


def now(scene, view_layer: str, settings: ResolvedSettings) -> Asked:
    """What a take of ``scene`` would be made for now."""
    markers = sorted((marker.frame, marker.camera.name) for marker in scene.timeline_markers if marker.camera)
    return Asked(
        changes=_changes,
        scene=scene.name,
        view_layer=view_layer,
        settings=settings,
        picture=(*render_size(scene), *pixel_aspect(scene), *sorted(kept_look(scene).items())),
        shading=shading_digest(scene.original, scene.original.view_layers[view_layer]),
        cameras=(scene.camera.name if scene.camera else "", *markers),
    )


def find(scene, view_layer: str, settings: ResolvedSettings) -> FinishedTake | None:
    """The take that was made for exactly this, None when there is none or its frames are gone."""
    if _kept is None or bpy.app.background or settings.new_first_frame:
        return None
    asked, take = _kept
    if asked != now(scene, view_layer, settings) or not all(path.is_file() for path in take.take.frames):
        return None
    return take


def keep(asked: Asked, take: FinishedTake) -> None:
    """``take`` was made for what was ``asked``; of several the last one is kept."""
    global _kept
    if not bpy.app.background:
        _kept = (asked, take)


@persistent
def count_changes(_scene, depsgraph):
    """Blender has updated something."""
    global _changes
    if any(_is_change(update) for update in depsgraph.updates):
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


@persistent
def forget(*_):
    """Another file is opened."""
    global _kept
    _kept = None


def register():
    """From now on changes are counted."""
    bpy.app.handlers.depsgraph_update_post.append(count_changes)
    bpy.app.handlers.load_pre.append(forget)


def unregister():
    """Undo `register`."""
    bpy.app.handlers.load_pre.remove(forget)
    bpy.app.handlers.depsgraph_update_post.remove(count_changes)
    forget()
