# SPDX-License-Identifier: GPL-3.0-or-later
"""When what cameras see was last edited, as far as Blender tells: objects moved, meshes, curves, bones, keyframes and
cameras changed.  Nothing is evaluated to find out; a picture that is older may still be right.

What is only selected, played or looked at is no edit; an undo may be taken for one.  For a Blender with a window: one
without renders in its own scene, whose size that changes, and cameras with it.  Materials, lights and worlds are told
otherwise (`appearance`).  The time is stored in the scenes that a file saves (``Scene.das.edited_at``), so that it is
known of a file that is opened again.
"""

from __future__ import annotations

import time

import bpy
from bpy.app.handlers import persistent

_SEEN = tuple(
    getattr(bpy.types, name)
    for name in (
        "Action", "Armature", "Camera", "Collection", "Curve", "Curves", "GreasePencil", "GreasePencilv3", "Key",
        "Lattice", "Mesh", "MetaBall", "ParticleSettings", "PointCloud", "Volume",
    )
    if hasattr(bpy.types, name)
)  # fmt: skip
_KINDS = """OBJECT MESH CURVE CURVES META POINTCLOUD VOLUME LATTICE ARMATURE KEY ACTION PARTICLE COLLECTION
    CAMERA""".split()

_last = 0.0


def last_edit(scene) -> float:
    """When ``scene`` was last edited, seconds since the epoch; 0 where nobody knows of any edit."""
    return max(_last, _stored(scene))


def store(scene) -> None:
    """Store the time of the last edit in ``scene``, which is about to be saved."""
    if scene.library is None and _last > _stored(scene):
        scene.das.edited_at = repr(_last)


def _stored(scene) -> float:
    try:
        return float(scene.das.edited_at)
    except ValueError:
        return 0.0


@persistent
def note(_scene, depsgraph):
    """Blender has updated something."""
    global _last
    if any(map(_is_edit, depsgraph.updates)) or _is_elsewhere(depsgraph):
        _last = time.time()


def _is_edit(update) -> bool:
    if isinstance(update.id, bpy.types.Object):
        return update.is_updated_geometry or update.is_updated_transform
    return isinstance(update.id, _SEEN)


def _is_elsewhere(depsgraph) -> bool:
    """Whether something has changed in a view layer that no window shows: only its kind is told."""
    return not depsgraph.updates and any(map(depsgraph.id_type_updated, _KINDS))


@persistent
def forget(*_):
    """Another file is opened."""
    global _last
    _last = 0.0


def register():
    """From now on edits are noted, in a window."""
    if not bpy.app.background:
        bpy.app.handlers.depsgraph_update_post.append(note)
    bpy.app.handlers.load_pre.append(forget)


def unregister():
    """Undo `register`."""
    bpy.app.handlers.load_pre.remove(forget)
    if note in bpy.app.handlers.depsgraph_update_post:
        bpy.app.handlers.depsgraph_update_post.remove(note)
    forget()
