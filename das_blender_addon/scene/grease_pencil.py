# SPDX-License-Identifier: GPL-3.0-or-later
"""Grease Pencil is Blender's own: it draws it over the result of any engine, at its depth where there is a depth pass.

So it is in no tracking video, in no key picture and in no frame of a take, and appears once, in a render of the scene.
"""

from __future__ import annotations

from ..compat import GREASE_PENCIL


def has_grease_pencil(scene) -> bool:
    """Whether Grease Pencil may be in a render of ``scene``, objects of collections that are instanced included."""
    shapes = list(scene.objects) if scene is not None else []
    seen = set()
    while shapes:
        shape = shapes.pop()
        if shape.type in GREASE_PENCIL:
            return True
        parts = shape.instance_collection if shape.instance_type == "COLLECTION" else None
        if parts is not None and parts not in seen:
            seen.add(parts)
            shapes += parts.all_objects
    return False
