# SPDX-License-Identifier: GPL-3.0-or-later
"""Station 1, scene → geometry: every surface that a render shows, with its world-space vertices in every frame.

The caller steps the frames and hands over an evaluated depsgraph of a render for each (`walk`).  Instances of type MESH
count: curves, text, surfaces and metaballs come with a mesh instance too; and what `content` makes triangles of.

An instance that is absent in some frames (hidden for rendering, a particle not yet born) has NaN vertices there:
nothing is drawn, and points that are absent in the first frame stay black.  A mesh is triangulated once, at its first
appearance.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..errors import SceneError
from ..tracking.geometry import CameraPath, GeometrySequence
from ..tracking.spool import SpoolWriter
from .appearance import appearance_digest
from .camera import active_camera, camera_from_blender, join_cameras, pixel_aspect
from .content.eye import Eye
from .content.reading import Contents
from .content.shape import Shape

FAR = 1e15
"""Blender units; modifiers that divide by 0 put vertices beyond it.  The square of a length below it is a number."""
IN_WORLD = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
"""Rows of the matrix of what is in world space already."""
PATTERN_INSTANCERS = ("VERTS", "FACES")
"""Instancers whose children are only the pattern of their instances."""


class GeometryExport:
    """Collects all triangles of a shot and its cameras: `add` every frame, increasing, then `finish`.

    Raises `SceneError` (no camera, camera that is no perspective camera, topology that changes over time: it names the
    object and the frame).
    """

    def __init__(self, width: int, height: int, spool: SpoolWriter | None = None):
        """For a picture of ``width`` × ``height`` pixels; the vertices go to ``spool``, or stay in memory."""
        self._width, self._height, self._spool = width, height, spool
        self._frames: list[int] = []
        self._cameras: list[CameraPath] = []
        self._vertices: list[np.ndarray] = []
        self._slots: dict[tuple, _Slot] = {}
        self._group_sizes: dict[tuple, int] = {}
        self._contents = Contents()
        self._num_vertices = 0
        self._appearance = ""

    @property
    def num_frames(self) -> int:
        return len(self._frames)

    def add(self, frame: int, depsgraph) -> None:
        """Read the frame that ``depsgraph`` holds.  Raises `SceneError`, see the class."""
        scene = depsgraph.scene
        if not self._frames:
            self._appearance = appearance_digest(depsgraph)
        camera = active_camera(scene, frame).evaluated_get(depsgraph)
        self._cameras.append(
            camera_from_blender(camera, self._width, self._height, aspect=pixel_aspect(scene), frame=frame)
        )
        self._frames.append(int(frame))
        self._contents.begin(Eye.of(self._cameras[-1]), scene, depsgraph.view_layer)
        meshes = _read_instances(depsgraph, self._slots, self._contents)
        self._check_group_sizes(meshes, frame)
        placed = [(mesh, self._slots_of(mesh, frame)) for mesh in meshes]
        vertices = np.full((self._num_vertices, 3), np.nan, dtype=np.float32)
        for mesh, starts in placed:
            _place(vertices, mesh, starts)
        if self._spool is not None:
            self._spool.add(vertices)
        else:
            self._vertices.append(vertices)

    def finish(self) -> GeometrySequence:
        """The whole shot.  Raises `SceneError` when no frame was added."""
        if not self._frames:
            raise SceneError("The shot has no frames; give it at least one.")
        # In the order of the names: the same shot gives the same arrays whatever order a depsgraph has.
        keys = sorted(self._slots)
        slots = [self._slots[key] for key in keys]
        order = np.concatenate([np.zeros(0, np.int64), *(np.arange(slot.start, slot.end) for slot in slots)])
        starts = np.cumsum([0, *(slot.topology.num_vertices for slot in slots)])
        triangles = [
            slot.topology.triangles + np.int32(start) for slot, start in zip(slots, starts, strict=False)
        ]
        triangles, cut = self._contents.looks.applied(keys, triangles)
        triangles = np.concatenate([np.zeros((0, 3), np.int32), *triangles])
        cameras, frames, notes = join_cameras(self._cameras), tuple(self._frames), self._contents.notes
        if self._spool is not None:
            return self._spool.finish(triangles, order, cameras, frames, self._appearance, notes, cut)
        vertices = np.full((len(frames), self._num_vertices, 3), np.nan, dtype=np.float32)
        for index, frame_vertices in enumerate(self._vertices):
            vertices[index, : len(frame_vertices)] = frame_vertices
            vertices[index] = vertices[index, order]
        return GeometrySequence(triangles, vertices, cameras, frames, self._appearance, notes, cut)

    def _check_group_sizes(self, meshes: list[_Mesh], frame: int) -> None:
        """Instances are told apart by their numbers: when some of them come or go, the numbers of the rest mean
        nothing.
        """
        counts = Counter(key[:2] for mesh in meshes for key in mesh.keys if key[0] and not key[2])
        for group, count in counts.items():
            known = self._group_sizes.setdefault(group, count)
            if known != count:
                raise SceneError(
                    f"{group[0]!r} makes {count} instances of {group[1]!r} at frame {frame} and {known} in earlier "
                    "frames; keep the number of instances constant over the shot."
                )

    def _slots_of(self, mesh: _Mesh, frame: int) -> list[int]:
        """The first vertex of each instance of ``mesh``, by key; makes room for new ones."""
        starts, agreed = [], set()
        for key in mesh.keys:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = _Slot(self._num_vertices, mesh.topology, frame)
                self._num_vertices += mesh.topology.num_vertices
            elif slot.topology is not mesh.topology and id(slot.topology) not in agreed:
                _check_topology(key, slot, mesh.topology, frame)
                agreed.add(id(slot.topology))
            starts.append(slot.start)
        return starts


# ── Reading one frame ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Topology:
    """What must not change over time; a mesh without faces counts no vertices, whatever it holds.

    ``corners`` [C] i32: vertex of each face corner.  ``triangles`` [M,3] i32: None until the mesh gets a slot.
    """

    num_vertices: int
    num_faces: int
    corners: np.ndarray
    triangles: np.ndarray | None = None


@dataclass(frozen=True)
class _Slot:
    """Where an instance's vertices begin, its topology, and the frame that it appeared in."""

    start: int
    topology: _Topology
    frame: int

    @property
    def end(self) -> int:
        return self.start + self.topology.num_vertices


@dataclass
class _Mesh:
    """One evaluated mesh of one frame with all its instances.

    ``positions`` [N,3] f32 local.  ``keys``: (parent, object, particle system, numbers) per instance, the same in
    every frame.
    ``matrices``: 3 rows of 4 per instance, world from local.
    """

    positions: np.ndarray
    topology: _Topology
    keys: list[tuple] = field(default_factory=list)
    matrices: list[tuple] = field(default_factory=list)


def _read_instances(depsgraph, slots: dict[tuple, _Slot], contents: Contents) -> list[_Mesh]:
    """Every mesh that a render of ``depsgraph`` shows to the camera, in the order of the depsgraph; then ``contents``.

    A mesh is triangulated when one of its instances has no slot yet.
    """
    objects = _Objects(depsgraph)
    meshes: dict[int, _Mesh] = {}
    others: list[_Mesh] = []
    occurrences: Counter = Counter()
    for instance in depsgraph.object_instances:
        shape = instance.object
        is_mesh = shape.type == "MESH" and instance.show_self
        has_content = contents.shows(shape, instance)
        if not (is_mesh or has_content):
            continue
        if instance.is_instance:
            source, parent = objects(instance.instance_object), objects(instance.parent)
            particles = instance.particle_system
            if not (source.is_seen and parent.is_seen and parent.renders):
                continue
            if not source.renders and _hides_with_source(parent, particles):
                continue
            if source.is_pattern and parent.instances not in PATTERN_INSTANCERS:
                continue
            # A collection's numbers count visible objects only and shift when one is hidden; the names do not.
            numbers = () if parent.instances == "COLLECTION" else tuple(instance.persistent_id)
            key = (parent.name, source.name, particles.name if particles else "", numbers)
        else:
            source = objects(shape)
            if not (source.is_seen and source.renders) or source.is_pattern:
                continue
            key = ("", source.name, "", ())
        occurrences[key] += 1
        key = (*key, occurrences[key])
        if has_content:
            others += [_mesh_of(own, one) for own, one in contents.shapes(instance, key)]
        if not is_mesh:
            continue
        data = shape.data
        mesh = meshes.get(data.as_pointer())
        if mesh is None:
            mesh = _no_mesh() if contents.is_nothing(shape, data) else _read_mesh(data, shape)
            meshes[data.as_pointer()] = mesh
        if mesh.topology.triangles is None and key not in slots:
            mesh.topology.triangles = _triangles(data, mesh.topology)
        if key not in slots and mesh.topology.num_faces:
            contents.appears(key, shape, data)
        rows = instance.matrix_world
        mesh.keys.append(key)
        mesh.matrices.append((rows[0][:], rows[1][:], rows[2][:]))
    return [*meshes.values(), *others]


def _mesh_of(key: tuple, shape: Shape) -> _Mesh:
    """The one instance ``key`` of what is in world space already."""
    faces = shape.faces
    topology = _Topology(faces.num_vertices, faces.num_faces, faces.corners, faces.triangles)
    return _Mesh(shape.positions, topology, [key], [IN_WORLD])


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
    """What the exporter must know of an object; asked once per frame and object.

    ``is_seen``: the camera would see it if it renders.  ``renders``: it is not hidden for rendering.  ``instances``:
    its
    ``instance_type``.
    """

    name: str
    is_seen: bool
    renders: bool
    is_pattern: bool
    instances: str


class _Objects:
    """Objects by pointer.

    A render's own depsgraph holds only what renders; the one of the viewport may also hold what is hidden for
    rendering.  Holdouts cut a hole into the picture: they show no surface.
    """

    def __init__(self, depsgraph):
        self._layer = depsgraph.view_layer
        self._is_render = depsgraph.mode == "RENDER"
        self._known: dict[int, _Object] = {}

    def __call__(self, shape) -> _Object:
        pointer = shape.as_pointer()
        known = self._known.get(pointer)
        if known is None:
            known = self._known[pointer] = _Object(
                name=shape.name_full,
                is_seen=self._is_seen(shape),
                renders=self._is_render or not shape.hide_render,
                is_pattern=shape.parent is not None and shape.parent.instance_type in PATTERN_INSTANCERS,
                instances=shape.instance_type,
            )
        return known

    def _is_seen(self, shape) -> bool:
        if not shape.visible_camera or shape.is_holdout:
            return False
        original = shape.original
        if original.library is not None or original.name not in self._layer.objects:
            return True
        return not (original.holdout_get(view_layer=self._layer) or original.indirect_only_get(view_layer=self._layer))


def _read_mesh(data, shape) -> _Mesh:
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
    return _Mesh(positions, _Topology(len(positions), num_faces, corners))


def _no_mesh() -> _Mesh:
    return _Mesh(np.zeros((0, 3), np.float32), _Topology(0, 0, np.zeros(0, np.int32)))


def _triangles(data, topology: _Topology) -> np.ndarray:
    """[M,3] i32 vertex indices."""
    if not topology.num_faces:
        return np.zeros((0, 3), np.int32)
    data.calc_loop_triangles()
    loops = np.empty(len(data.loop_triangles) * 3, np.int32)
    data.loop_triangles.foreach_get("loops", loops)
    return topology.corners[loops].reshape(-1, 3)


def _check_topology(key: tuple, slot: _Slot, now: _Topology, frame: int) -> None:
    """Raise `SceneError` when an instance's mesh is another one than at its first appearance."""
    first = slot.topology
    same = (first.num_vertices, first.num_faces) == (now.num_vertices, now.num_faces)
    if same and np.array_equal(first.corners, now.corners):
        return
    counts = "its faces are connected in another way"
    if not same or len(first.corners) != len(now.corners):
        counts = (
            f"{first.num_vertices} vertices and {first.num_faces} faces became {now.num_vertices} vertices and "
            f"{now.num_faces} faces"
        )
    raise SceneError(
        f"The object {key[1]!r} changes its topology at frame {frame} ({counts} since frame {slot.frame}); its surface "
        "cannot be followed: remove the modifier that does it, or hide the object for rendering."
    )


def _place(vertices: np.ndarray, mesh: _Mesh, starts: list[int]) -> None:
    """Write the world-space vertices of every instance of ``mesh`` into ``vertices`` [N,3] at ``starts``.

    A vertex that is nowhere, or farther than `FAR`, is absent, and so is every triangle that it has.
    """
    num_vertices = mesh.topology.num_vertices
    if not num_vertices:
        return
    matrices = np.array(mesh.matrices, dtype=np.float32)
    linear, offsets = matrices[:, :, :3], matrices[:, :, 3]
    with np.errstate(invalid="ignore", over="ignore"):
        for_each = mesh.positions @ linear.transpose(0, 2, 1)
        for_each += offsets[:, None, :]
        if not (-FAR < for_each.min() and for_each.max() < FAR):
            for_each[~(np.abs(for_each) < FAR).all(axis=2)] = np.nan
    if len(starts) == 1:
        vertices[starts[0] : starts[0] + num_vertices] = for_each[0]
    else:
        vertices[np.array(starts)[:, None] + np.arange(num_vertices)] = for_each
