# SPDX-License-Identifier: GPL-3.0-or-later
"""What the artist has chosen for objects and collections: `Object.das.tracking` and `Collection.das.tracking`."""

from __future__ import annotations

from collections.abc import Callable

import bpy

from ..tracking.geometry import BACKGROUND, SILHOUETTE

TRACK, IGNORE = "TRACK", "IGNORE"
ROLES = {"SILHOUETTE": SILHOUETTE, "BACKGROUND": BACKGROUND}
"""Choice → role of the triangles."""
WORDS = {
    IGNORE: ("ignored", "is not tracked because that was chosen: what is behind it is tracked through it"),
    "SILHOUETTE": ("silhouette", "hides what is behind it and is black in the tracking video, as was chosen"),
    "BACKGROUND": ("background", "is drawn behind everything, as if it were far away, as was chosen"),
}
"""Choice → code and words of a `tracking.geometry.Note`."""


def sees_through(shape) -> bool:
    """Whether what is behind the transparent parts of an evaluated object is tracked, not their surface."""
    settings = getattr(shape.original, "das", None)
    return settings is not None and settings.transmission == "BEHIND"


class Choices:
    """Those of one frame.  An object's own goes before those of its collections, of which the first by name counts."""

    def __init__(self, scene, note: Callable[[str, str, str], None]):
        """``note(name, code, words)`` is told of every object that is not tracked as others are."""
        self._note = note
        self._of_collections: dict[str, str] = {}
        chosen = [collection for collection in bpy.data.collections if _choice(collection) != TRACK]
        here = _collections_of(scene) if chosen else set()
        for collection in sorted(chosen, key=lambda one: one.name_full):
            if collection in here:
                for shape in collection.all_objects:
                    self._of_collections.setdefault(shape.name_full, _choice(collection))

    def of(self, shape) -> str:
        """The choice for an evaluated object."""
        choice = _choice(shape.original)
        if choice == TRACK:
            choice = self._of_collections.get(shape.name_full, TRACK)
        if choice != TRACK:
            self._note(shape.name, *WORDS[choice])
        return choice


def _collections_of(scene) -> set:
    """Those in the scene, and those that its objects are instances of."""
    found = {*scene.original.collection.children_recursive}
    shapes = list(scene.original.objects)
    while shapes:
        collection = shapes.pop().instance_collection
        if collection is not None and collection not in found:
            found.update((collection, *collection.children_recursive))
            shapes += collection.all_objects
    return found


def _choice(owner) -> str:
    settings = getattr(owner, "das", None)
    return TRACK if settings is None else settings.tracking
