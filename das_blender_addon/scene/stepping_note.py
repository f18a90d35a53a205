# SPDX-License-Identifier: GPL-3.0-or-later
"""What a walk through a scene's frames changes, as it was before: in memory for the end of the walk, and as a note that
the scene itself carries meanwhile.

Blender keeps states of the whole file without asking: an undo step after every operator, automatic saves, the last
session's file.  One that is kept in the middle of a walk holds what the walk has changed, and the note.  Whoever
brings such a state back calls `set_back_noted`.

Only data-blocks are held by reference: Blender tells Python when those are gone.  Modifiers, view layers and
collections in layers are found again by their paths, for they may be removed between two frames.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import bpy

LOGGER = logging.getLogger(__name__)
KEY = "das_stepping"
"""The note's custom property on the scene; there only while the scene is walked."""
_COLLECTIONS = {
    "SCENE": "scenes",
    "COLLECTION": "collections",
    "OBJECT": "objects",
    "META": "metaballs",
    "CURVE": "curves",
    "PARTICLE": "particles",
}
"""Type of a data-block → where `bpy.data` has it."""
_GONE = (ReferenceError, RuntimeError, TypeError, ValueError, AttributeError, KeyError)


@dataclass(frozen=True)
class Setting:
    """A property as it was.  ``path``: from the data-block ``block`` to what has the property, "" for the block."""

    block: bpy.types.ID
    path: str
    name: str
    value: bool | int

    def set_back(self) -> None:
        setattr(self.block.path_resolve(self.path) if self.path else self.block, self.name, self.value)


@dataclass
class Before:
    """The scene before the walk.  ``layer``: name of the view layer whose objects it is about.  ``hidden``: objects
    that were hidden in it.
    """

    scene: bpy.types.Scene
    layer: str
    frame: int
    subframe: float
    camera: bpy.types.Object | None
    active: bpy.types.Object | None
    selected: list[bpy.types.Object]
    hidden: list[bpy.types.Object] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    _note: str = ""

    @classmethod
    def of(cls, scene, layer) -> Before:
        """As ``scene`` is now."""
        return cls(
            scene=scene,
            layer=layer.name,
            frame=scene.frame_current,
            subframe=scene.frame_subframe,
            camera=scene.camera,
            active=layer.objects.active,
            selected=[shape for shape in layer.objects if shape.select_get(view_layer=layer)],
        )

    def change(self, owner, name: str, value, path: str | None = None) -> None:
        """Give ``owner.name`` the ``value``.  ``path``: see `Setting`; None where Blender knows it."""
        before = getattr(owner, name)
        if before != value:
            if path is None:
                path = "" if isinstance(owner, bpy.types.ID) else owner.path_from_id()
            self.settings.append(Setting(owner.id_data, path, name, before))
            setattr(owner, name, value)

    def unhide(self, shape, layer) -> None:
        """Show an object that is hidden in ``layer``."""
        self.hidden.append(shape)
        shape.hide_set(False, view_layer=layer)

    def set_back(self) -> None:
        """All as it was; what was removed in the meantime is left out."""
        failures = []
        for step in self._steps():
            try:
                step()
            except _GONE as error:
                failures.append(error)
        if failures:
            LOGGER.warning("%d things of the scene are gone and were not set back (%s)", len(failures), failures[0])

    def _steps(self) -> Iterator[Callable[[], object]]:
        for setting in reversed(self.settings):
            yield setting.set_back
        for shape in self.hidden:
            yield partial(self._hide, shape)
        yield lambda: self.scene.frame_set(self.frame, subframe=self.subframe)
        yield self._bind_camera
        for shape in self.selected:  # hiding had deselected it
            yield partial(self._select, shape)
        yield self._activate
        yield self._erase

    def _layer(self):
        return self.scene.view_layers[self.layer]

    def _hide(self, shape) -> None:
        shape.hide_set(True, view_layer=self._layer())

    def _select(self, shape) -> None:
        shape.select_set(True, view_layer=self._layer())

    def _bind_camera(self) -> None:
        if self.scene.camera is not self.camera:  # a marker had bound another one
            self.scene.camera = self.camera

    def _activate(self) -> None:
        objects = self._layer().objects
        if objects.active is not self.active:
            objects.active = self.active

    # ── The note ────────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self) -> None:
        """Let the scene carry it, until `set_back`.  A walk within a walk leaves the first one's note."""
        if self.scene.library is not None or KEY in self.scene:
            return
        self._note = json.dumps(
            {
                "scene": self.scene.name,
                "layer": self.layer,
                "frame": self.frame,
                "subframe": self.subframe,
                "camera": _name(self.camera),
                "active": _name(self.active),
                "selected": [_name(shape) for shape in self.selected],
                "hidden": [_name(shape) for shape in self.hidden],
                "settings": [
                    (one.block.id_type, one.block.name, one.path, one.name, one.value)
                    for one in self.settings
                    if one.block.library is None  # what is linked is in no state that is kept
                ],
            }
        )
        self.scene[KEY] = self._note

    def _erase(self) -> None:
        for scene in bpy.data.scenes:  # somebody may have copied it
            if self._note and scene.get(KEY) == self._note:
                del scene[KEY]

    @classmethod
    def from_note(cls, scene, note: str) -> Before:
        """What ``scene`` carries.  Raises `ValueError`, `KeyError` or `TypeError` for a note that nobody wrote here."""
        said = json.loads(note)
        if said["scene"] != scene.name:
            raise ValueError(f"it is of the scene {said['scene']!r}")
        blocks = [
            (getattr(bpy.data, _COLLECTIONS[kind]).get((block, None)), path, name, value)
            for kind, block, path, name, value in said["settings"]
        ]
        return cls(
            scene=scene,
            layer=said["layer"],
            frame=said["frame"],
            subframe=said["subframe"],
            camera=_object(said["camera"]),
            active=_object(said["active"]),
            selected=_objects(said["selected"]),
            hidden=_objects(said["hidden"]),
            settings=[Setting(*one) for one in blocks if one[0] is not None],
            _note=note,
        )


def set_back_noted() -> None:
    """A state of the file was brought back: scenes that were kept in the middle of a walk become as before it."""
    for scene in bpy.data.scenes:
        note = scene.get(KEY)
        if note is None:
            continue
        try:
            Before.from_note(scene, note).set_back()
        except (ValueError, KeyError, TypeError) as error:
            LOGGER.warning("The scene %r carries a note that is not followed (%s)", scene.name, error)
        scene.pop(KEY, None)


def _name(shape) -> tuple[str, str | None] | None:
    return None if shape is None else (shape.name, shape.library and shape.library.filepath)


def _object(name: list | None):
    return None if name is None else bpy.data.objects.get(tuple(name))


def _objects(names: list) -> list:
    return [shape for shape in map(_object, names) if shape is not None]
