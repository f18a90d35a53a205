# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what renders and is no mesh, instance by instance, frame after frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...compat import GREASE_PENCIL, draws_grease_pencil
from ...tracking.geometry import Note
from .eye import Eye
from .hair import hair_systems, read_curves, read_particle_hair
from .points import Balls, Domes, Groups, read_points, solids
from .ribbons import Ribbons
from .shape import Shape
from .surfaces import Look, Looks

KINDS = ("CURVES", "POINTCLOUD")
"""Types of objects that are read here; hair of particles comes with objects of any type."""
UNTRACKED = {
    "VOLUME": (
        "volume",
        "is a volume: it has no surface that could be tracked, and what is behind it is tracked through it",
    ),
    **dict.fromkeys(
        GREASE_PENCIL,
        (
            "grease_pencil",
            "is Grease Pencil: Blender draws it over the frames of a render, and no frame or strip of a take has it",
        ),
    ),
}
"""Types of objects that render and are not tracked: code and words of a `Note`."""


class Contents:
    """The contents of a shot; `begin` each of its frames."""

    def __init__(self):
        self._makers: dict[tuple, Ribbons | Balls | Domes] = {}
        self._groups: dict[tuple, Groups] = {}
        self._read: dict[tuple, object] = {}
        self._notes: set[Note] = set()
        self._scene = self._layer = None
        self.looks = Looks(self.note)
        self._eye: Eye | None = None
        self._untracked: frozenset[str] = frozenset()

    @property
    def notes(self) -> tuple[Note, ...]:
        """What renders and is not tracked, or not as it renders, by the objects' names."""
        return tuple(sorted(self._notes))

    def begin(self, eye: Eye, scene, layer) -> None:
        """The next frame is seen by ``eye``, in the view layer ``layer`` of ``scene``."""
        self._eye, self._scene, self._layer = eye, scene, layer
        self._untracked = frozenset(UNTRACKED if draws_grease_pencil(layer) else UNTRACKED.keys() - GREASE_PENCIL)
        self._read.clear()

    def shows(self, shape, instance) -> bool:
        """Whether there is something to read of an ``instance`` of the object ``shape``."""
        if shape.type in KINDS or shape.type in self._untracked:
            return instance.show_self
        return instance.show_particles and bool(hair_systems(shape))

    def shapes(self, instance, key: tuple) -> Iterator[tuple[tuple, Shape, bool]]:
        """All that there is of an instance: (``key`` or one of its own, the same in every frame; what is drawn; whether
        its material makes it a hole).
        """
        shape = instance.object
        if shape.type in self._untracked:
            self.note(shape.name, *UNTRACKED[shape.type])
            return
        rows = np.array(instance.matrix_world, np.float32)[:3]
        if shape.type in KINDS:
            if not instance.show_self:
                return
            pointer, is_hole = shape.data.as_pointer(), self.looks.is_hole(shape, 0, self._layer)
            if shape.type == "POINTCLOUD":
                found = self._once(("data", pointer), lambda: read_points(shape.data))
                yield from ((*one, is_hole) for one in self._solids(key, found, rows))
                return
            strands = self._once(("data", pointer), lambda: read_curves(shape.data, self._scene))
            if strands is not None:
                yield key, self._ribbons(key, strands, rows), is_hole
        elif instance.show_particles:
            for system in hair_systems(shape):
                known = ("hair", shape.as_pointer(), system.name)
                strands = self._once(known, lambda system=system: read_particle_hair(shape, system, self._scene))
                if strands is not None:
                    own = (key[0], key[1], f"hair {system.name} {key[2]}", *key[3:])
                    is_hole = self.looks.is_hole(shape, system.settings.material - 1, self._layer)
                    yield own, self._ribbons(own, strands, rows), is_hole

    def is_nothing(self, shape, data) -> bool:
        """Whether no material of the mesh ``data`` of the object ``shape`` is a surface."""
        return self.looks.is_nothing(shape, data, self._layer)

    def look(self, name: tuple[str, str, str], shape, mesh) -> Look | None:
        """What the materials leave of the ``mesh`` (of `instances`) of the object ``shape``, whose instances are called
        ``name``; None for all of it.
        """
        return self.looks.of(name, shape, mesh, self._layer)

    def note(self, name: str, code: str, words: str) -> None:
        """Say that the object ``name`` is not tracked, or not as it renders: see `Note`."""
        self._notes.add(Note(name, code, words))

    def _once(self, key: tuple, read):
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]

    def _ribbons(self, key: tuple, strands, rows) -> Shape:
        maker = self._makers.get(key)
        same = maker is not None and maker.is_straight == strands.is_straight
        if not same or not np.array_equal(maker.starts, strands.starts):
            maker = self._makers[key] = Ribbons(strands.starts, strands.is_straight)
        return maker.shape(strands, rows, self._eye)

    def _solids(self, key: tuple, found, rows) -> Iterator[tuple[tuple, Shape]]:
        positions, radii, ids = found
        groups = self._groups.setdefault(key, Groups())
        for number, places in enumerate(groups.places(ids)):
            own = (key[0], key[1], f"points {number} {key[2]}", *key[3:])
            maker = self._makers.get(own)
            if maker is None:
                maker = self._makers[own] = solids(len(places))
            there = positions[places] if len(positions) else np.zeros((len(places), 3), np.float32)
            there[places < 0] = np.nan
            sizes = radii[places] if len(radii) else np.zeros(len(places), np.float32)
            yield own, maker.shape(there, sizes, rows, self._eye)
