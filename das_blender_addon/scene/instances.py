# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame of a depsgraph, read: every mesh that a render shows to the camera, with the places of all its instances.

Instances come by the ten thousand.  Which kind each is has to be asked one by one; their matrices and numbers are read
all at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..errors import SceneError
from ..tracking.geometry import HOLE, TRACKED
from .choices import IGNORE, ROLES, Choices
from .content.reading import Contents
from .content.surfaces import Look
from .guides import guided
from .layers import is_aside, is_holdout

PATTERN_INSTANCERS = ("VERTS", "FACES")
"""Instancers whose children are only the pattern of their instances."""
CATCHER = (
    "shadow_catcher",
    "is a shadow catcher, of which only shadows render: it is not tracked, and what is behind it is tracked through it",
)
"""Code and words of a `tracking.geometry.Note`."""
NUMBERS = 8
"""Of Blender's persistent id."""
IN_WORLD = np.eye(3, 4, dtype=np.float32)[None]
"""The matrix of what is in world space already."""


@dataclass
class Topology:
    """What connects vertices; a mesh without faces counts no vertices, whatever it holds.

    ``corners`` [C] i32: vertex of each face corner.  ``triangles`` [M,3] i32: None until the mesh gets a slot;
    ``loops`` [M,3] i32: their face corners, None where they are made of no mesh.
    """

    num_vertices: int
    num_faces: int
    corners: np.ndarray
    triangles: np.ndarray | None = None
    loops: np.ndarray | None = None

    def equals(self, other: Topology) -> bool:
        return self is other or (
            (self.num_vertices, self.num_faces) == (other.num_vertices, other.num_faces)
            and (self.corners is other.corners or np.array_equal(self.corners, other.corners))
        )


@dataclass(frozen=True)
class Placement:
    """Instances of a mesh that have one origin.

    ``name``: (parent, object, particle system), "" where there is none.  ``rows`` [K] i64: their places in the order of
    the depsgraph.  ``numbers`` [K,8] i32: Blender's persistent ids, 0 where they mean nothing.  ``matrices`` [K,3,4]
    f32: world from local.  ``is_stable``: an instance keeps its numbers whatever becomes of others.  ``look``: what
    the materials leave of the mesh, None for all of it.  ``role``: see `tracking.geometry`.
    """

    name: tuple[str, str, str]
    rows: np.ndarray
    numbers: np.ndarray
    matrices: np.ndarray
    is_stable: bool
    look: Look | None = None
    role: int = TRACKED


@dataclass
class Mesh:
    """One evaluated mesh of one frame with all its instances.

    ``positions`` [N,3] f32 local.  ``ids`` [N] i32: the attribute `id`, None where it has none.  ``data``: Blender's
    mesh, for as long as the frame is read.
    """

    positions: np.ndarray
    topology: Topology
    ids: np.ndarray | None = None
    data: object = None
    placements: list[Placement] = field(default_factory=list)

    @property
    def has_look(self) -> bool:
        """Whether its materials leave only a part of it."""
        return any(placement.look is not None for placement in self.placements)

    def triangles(self) -> np.ndarray:
        """[M,3] i32 vertex indices."""
        if self.topology.triangles is None:
            self.topology.loops = _loops(self.data, self.topology)
            self.topology.triangles = self.topology.corners[self.topology.loops]
        return self.topology.triangles


def read_meshes(depsgraph, contents: Contents) -> tuple[list[Mesh], dict[str, Mesh]]:
    """Every mesh that a render of ``depsgraph`` shows to the camera, in the order of the depsgraph, then ``contents``;
    and the guides (`guides`), by the name of the object that they are there for.
    """
    reading = _Reading(depsgraph, contents)
    kinds: dict[tuple, int] = {}
    which = []
    for place, instance in enumerate(depsgraph.object_instances):
        shape = instance.object
        kind = (
            hash(shape), hash(shape.data), hash(instance.instance_object), hash(instance.parent),
            hash(instance.particle_system), instance.show_self, instance.show_particles,
        )
        number = kinds.get(kind)
        if number is None:
            number = kinds[kind] = len(kinds)
            reading.add_kind(instance, shape)
        if reading.has_content[number]:
            reading.add_content(place, number, instance)
        which.append(number)
    meshes = list(reading.meshes.values())
    _place(depsgraph, reading.found, np.array(which, np.int64))
    return [*meshes, *reading.others], reading.guides


@dataclass(frozen=True)
class _Origin:
    """Of instances of one kind: their ``name`` and ``role`` (see `Placement`), and whether their numbers mean
    something.
    """

    name: tuple[str, str, str]
    has_numbers: bool
    is_stable: bool
    role: int


class _Reading:
    """What one frame holds.  ``found``: for each kind of instances its origin, mesh and look, None for no mesh."""

    def __init__(self, depsgraph, contents: Contents):
        self._objects, self._contents = _Objects(depsgraph, contents.note), contents
        self._origins: list[_Origin | None] = []
        self._counts: Counter = Counter()
        self.meshes: dict[int, Mesh] = {}
        self.guides: dict[str, Mesh] = {}
        self.others: list[Mesh] = []
        self.found: list[tuple[_Origin, Mesh, Look | None] | None] = []
        self.has_content: list[bool] = []

    def add_kind(self, instance, shape) -> None:
        """The first ``instance`` of a kind, of the object ``shape``."""
        is_mesh = shape.type == "MESH" and instance.show_self
        if shape.type == "MESH" and guided(shape):
            self.guides[guided(shape)] = _read_mesh(shape.data, shape)
            is_mesh = has_content = False
        else:
            has_content = self._contents.shows(shape, instance)
        origin = _origin(instance, shape, self._objects) if is_mesh or has_content else None
        self._origins.append(origin)
        self.has_content.append(has_content and origin is not None)
        self.found.append(None)
        if is_mesh and origin is not None:
            data, pointer = shape.data, shape.data.as_pointer()
            if pointer not in self.meshes:
                is_nothing = self._contents.is_nothing(shape, data)
                self.meshes[pointer] = _no_mesh() if is_nothing else _read_mesh(data, shape)
            mesh = self.meshes[pointer]
            look = self._contents.look(origin.name, shape, mesh) if mesh.topology.num_faces else None
            self.found[-1] = (origin, mesh, look)

    def add_content(self, place: int, number: int, instance) -> None:
        """What is no mesh of the ``instance``, which is at ``place`` in the depsgraph and of the kind ``number``."""
        origin = self._origins[number]
        numbers = tuple(instance.persistent_id) if origin.has_numbers else ()
        self._counts[origin.name, numbers] += 1
        key = (*origin.name, numbers, self._counts[origin.name, numbers])
        for own, shape, is_hole in self._contents.shapes(instance, key):
            faces = shape.faces
            topology = Topology(faces.num_vertices, faces.num_faces, faces.corners, faces.triangles)
            row = np.array([numbers or (0,) * NUMBERS], np.int32)
            role = HOLE if is_hole else origin.role
            placement = Placement(own[:3], np.array([place]), row, IN_WORLD, origin.is_stable, role=role)
            self.others.append(Mesh(shape.positions, topology, placements=[placement]))


def _place(depsgraph, found: list, which: np.ndarray) -> None:
    """Give each mesh the places of its instances; ``which`` [I]: the number in ``found`` of every instance."""
    if not any(found):
        return
    instances = depsgraph.object_instances
    matrices = np.empty((len(which), 4, 4), np.float32)
    numbers = np.empty((len(which), NUMBERS), np.int32)
    instances.foreach_get("matrix_world", matrices.reshape(-1))
    instances.foreach_get("persistent_id", numbers.reshape(-1))
    matrices = matrices.transpose(0, 2, 1)[:, :3]  # Blender gives columns
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(found) + 1))
    for number, kind in enumerate(found):
        if kind is not None:
            origin, mesh, look = kind
            rows = order[bounds[number] : bounds[number + 1]]
            own = numbers[rows] if origin.has_numbers else np.zeros((len(rows), NUMBERS), np.int32)
            is_stable, role = origin.is_stable, origin.role
            mesh.placements.append(Placement(origin.name, rows, own, matrices[rows], is_stable, look, role))


def _origin(instance, shape, objects: _Objects) -> _Origin | None:
    """Where an instance comes from, None if it is not seen."""
    if not instance.is_instance:
        source = objects(shape)
        seen = source.is_seen and source.renders and not source.is_pattern and not objects.is_aside(shape)
        kind, role = objects.as_shown(shape, "", source.role)
        return _Origin(("", source.name, kind), False, True, role) if seen else None
    source, parent = objects(instance.instance_object), objects(instance.parent)
    particles = instance.particle_system
    if not (source.is_seen and parent.is_seen and parent.renders) or objects.is_aside(instance.parent):
        return None
    if not source.renders and _hides_with_source(parent, particles):
        return None
    if source.is_pattern and parent.instances not in PATTERN_INSTANCERS:
        return None
    # A collection's numbers count visible objects only and shift when one is hidden; the names do not.
    of_collection = parent.instances == "COLLECTION"
    kind, role = objects.as_shown(
        instance.parent, particles.name if particles else "", source.role or parent.role
    )
    name = (parent.name, source.name, kind)
    return _Origin(name, not of_collection, of_collection or particles is not None, role)


def _hides_with_source(parent: _Object, particles) -> bool:
    """Whether instances of an object that is hidden for rendering are hidden too.

    Blender asks it for instances on vertices and faces and of collections.  Particles and geometry nodes show an object
    whether it is hidden or not: artists hide the original on purpose.
    """
    if particles is not None:
        return particles.settings.render_type == "COLLECTION"
    return parent.instances != "NONE"


@dataclass(frozen=True)
class _Object:
    """What must be known of an object; asked once per frame and object.

    ``is_seen``: the camera would see it if it renders.  ``renders``: it is not hidden for rendering.  ``instances``:
    its ``instance_type``.  ``role``: of its triangles.
    """

    name: str
    is_seen: bool
    renders: bool
    is_pattern: bool
    instances: str
    role: int


class _Objects:
    """Objects by pointer.

    A render's own depsgraph holds only what renders; the one of the viewport may also hold what is hidden for
    rendering.  Of shadow catchers only shadows render: they are no surface; of those that are holdouts nothing does.
    """

    def __init__(self, depsgraph, note):
        self._layer = depsgraph.view_layer_eval
        self._choices = Choices(depsgraph.scene, note)
        self._is_render = depsgraph.mode == "RENDER"
        self._note, self._known, self._aside, self._holes = note, {}, {}, {}

    def __call__(self, shape) -> _Object:
        pointer = shape.as_pointer()
        known = self._known.get(pointer)
        if known is None:
            choice = self._choices.of(shape)
            renders = self._is_render or not shape.hide_render
            known = self._known[pointer] = _Object(
                name=shape.name_full,
                is_seen=choice != IGNORE and shape.visible_camera and not (renders and self._is_catcher(shape)),
                renders=renders,
                is_pattern=shape.parent is not None and shape.parent.instance_type in PATTERN_INSTANCERS,
                instances=shape.instance_type,
                role=ROLES.get(choice, TRACKED),
            )
        return known

    def is_aside(self, shape) -> bool:
        """Whether what the object ``shape`` shows, itself or its instances, is there for light only, in this view
        layer.

        As in Cycles, of instances only the object that shows them is asked, not the one that they are instances of.
        """
        pointer = shape.as_pointer()
        if pointer not in self._aside:
            self._aside[pointer] = is_aside(shape, self._layer)
        return self._aside[pointer]

    def as_shown(self, shape, kind: str, role: int) -> tuple[str, int]:
        """The third part of `Placement.name`, ``kind``, and the ``role`` of what the object ``shape`` shows, itself or
        its instances: what is a hole now is another thing than what it was or will be without.
        """
        pointer = shape.as_pointer()
        if pointer not in self._holes:
            self._holes[pointer] = is_holdout(shape, self._layer)
        return (f"{kind} hole", HOLE) if self._holes[pointer] else (kind, role)

    def _is_catcher(self, shape) -> bool:
        if not shape.is_shadow_catcher or is_holdout(shape, self._layer):
            return False
        self._note(shape.name, *CATCHER)
        return True


def _read_mesh(data, shape) -> Mesh:
    """Positions and topology of one evaluated mesh."""
    position = data.attributes.get("position")
    if position is None and shape.mode == "EDIT":
        raise SceneError(f"The object {shape.name!r} is in Edit Mode; leave Edit Mode to export its geometry.")
    corner_vertex = data.attributes.get(".corner_vert")
    num_faces = len(data.polygons)
    if not num_faces or position is None or corner_vertex is None:
        return _no_mesh()
    positions = np.empty((len(data.vertices), 3), np.float32)
    position.data.foreach_get("vector", positions.reshape(-1))
    corners = np.empty(len(data.loops), np.int32)
    corner_vertex.data.foreach_get("value", corners)
    ids = None
    given = data.attributes.get("id")
    if given is not None and given.domain == "POINT" and given.data_type == "INT":
        ids = np.empty(len(positions), np.int32)
        given.data.foreach_get("value", ids)
    return Mesh(positions, Topology(len(positions), num_faces, corners), ids, data)


def _no_mesh() -> Mesh:
    return Mesh(np.zeros((0, 3), np.float32), Topology(0, 0, np.zeros(0, np.int32)))


def _loops(data, topology: Topology) -> np.ndarray:
    if not topology.num_faces:
        return np.zeros((0, 3), np.int32)
    data.calc_loop_triangles()
    loops = np.empty((len(data.loop_triangles), 3), np.int32)
    data.loop_triangles.foreach_get("loops", loops.reshape(-1))
    return loops
