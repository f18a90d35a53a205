# SPDX-License-Identifier: GPL-3.0-or-later
"""Guides: twins of objects whose modifiers give them a new topology in every frame, without those modifiers.

A twin goes through the same motion with one and the same mesh.  It is there for a walk, is evaluated beside the object
and drawn nowhere; what the object's surface did between two frames is read off it (`matching`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy

RESHAPING = ("REMESH", "BUILD", "BOOLEAN", "DECIMATE", "MASK", "WELD")
"""Modifiers that may give every frame another topology."""
WITH_STATE = ("CLOTH", "SOFT_BODY", "FLUID", "PARTICLE_SYSTEM", "DYNAMIC_PAINT", "COLLISION", "NODES")
"""Modifiers that a twin may not have: their state or their caches belong to one object."""
MARK = "das_guide_of"


@contextmanager
def guides_in(scene) -> Iterator[None]:
    """``scene`` has a guide for each object that needs one; as before on leaving."""
    made = []
    try:
        if scene.library is None:
            made = [_guide_of(shape) for shape in scene.objects if _needs_guide(shape)]
        for guide in made:
            scene.collection.objects.link(guide)
        yield
    finally:
        for guide in made:
            bpy.data.objects.remove(guide)


def guided(shape) -> str:
    """The name of the object that ``shape`` is the guide of, "" for any other object."""
    return shape.get(MARK, "")


def _needs_guide(shape) -> bool:
    kinds = {modifier.type for modifier in shape.modifiers if modifier.show_render}
    return (
        shape.type == "MESH" and not shape.hide_render and not kinds.isdisjoint(RESHAPING)
        and kinds.isdisjoint(WITH_STATE) and shape.rigid_body is None
    )


def _guide_of(shape):
    guide = shape.copy()
    guide.name = f"Guide of {shape.name}"
    guide[MARK] = shape.name_full
    guide.instance_type = "NONE"
    for modifier in list(guide.modifiers):
        if modifier.type in RESHAPING:
            guide.modifiers.remove(modifier)
    return guide
