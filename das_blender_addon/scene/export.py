# SPDX-License-Identifier: GPL-3.0-or-later
"""Station 1, scene → geometry: every surface that a render shows, with its world-space vertices in every frame.

The caller steps the frames and hands over an evaluated depsgraph of a render for each (`walk`).  Instances of type MESH
count (`instances`): curves, text, surfaces and metaballs come with a mesh instance too; and what `content` makes
triangles of.

An instance that is absent in some frames (hidden for rendering, a particle not yet born) has NaN vertices there:
nothing is drawn, and points that are absent in the first frame stay black.  Which instance is which is found by
`identities`; a mesh that gets another topology goes on in another slot (`slots`).
"""

from __future__ import annotations

import numpy as np

from ..errors import SceneError
from ..tracking.changes import Changes
from ..tracking.geometry import HOLE, CameraPath, GeometrySequence
from ..tracking.passes import Shading
from ..tracking.projection import pinhole_at
from ..tracking.spool import SpoolWriter
from .appearance import appearance_digest
from .camera import active_camera, camera_from_blender, join_cameras, pixel_aspect
from .content.eye import Eye
from .content.reading import Contents
from .content.surfaces import RenderSheets
from .identities import Identities
from .in_view import InView
from .instances import Mesh, read_meshes
from .shading import ShadingReader
from .slots import Slot, Slots
from .stereo import camera_of_view, seen_by_eye

FAR = 1e15
"""Blender units; modifiers that divide by 0 put vertices beyond it.  The square of a length below it is a number."""


class GeometryExport:
    """Collects all triangles of a shot and its cameras: `add` every frame, increasing, then `finish`.

    Raises `SceneError` (no camera, a camera that cannot be tracked).
    """

    def __init__(
        self,
        width: int,
        height: int,
        spool: SpoolWriter | None = None,
        view: str = "",
        shading: ShadingReader | None = None,
    ):
        """For a picture of ``width`` × ``height`` pixels; the vertices go to ``spool``, or stay in memory.

        ``view``: by its name, of a stereoscopic scene, "" of another one.  ``shading`` reads the frame that is `add`-ed
        as ``is_shaded``; `finish` sets `shading`.
        """
        self._view = view
        self.shading: Shading | None = None
        self._reader = shading
        self._width, self._height, self._spool = width, height, spool
        self._frames: list[int] = []
        self._cameras: list[CameraPath] = []
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self._arrays: list[np.ndarray] = []
        self._contents = Contents()
        self._identities = Identities()
        self._slots = Slots(self._keep if spool is None else spool.keep)
        self._in_view, self._lost = InView(), set()
        self._appearance = ""

    @property
    def num_frames(self) -> int:
        return len(self._frames)

    def add(self, frame: int, depsgraph, camera=None, *, is_shaded: bool = False) -> None:
        """Read the frame that ``depsgraph`` holds, seen by ``camera``, original data; None for the one that renders it.

        Raises `SceneError`, see the class.
        """
        scene = depsgraph.scene
        if not self._frames:
            self._appearance = appearance_digest(depsgraph)
        camera = camera or camera_of_view(scene, active_camera(scene, frame), self._view)
        camera = camera.evaluated_get(depsgraph)
        path = camera_from_blender(camera, self._width, self._height, aspect=pixel_aspect(scene), frame=frame)
        self._cameras.append(seen_by_eye(path, scene, camera.data, self._view))
        before = self._frames[-1] if self._frames else None
        self._frames.append(int(frame))
        self._contents.begin(Eye.of(self._cameras[-1]), scene, depsgraph.view_layer)
        meshes, guides = read_meshes(depsgraph, self._contents)
        self._in_view.look(self._cameras[-1], meshes)
        self._contents.looks.see(meshes, pinhole_at(self._cameras[-1], -1))
        placed = list(zip(meshes, self._identities.assign(meshes), strict=True))
        starts = self._slots.of(placed, guides, int(frame), before)
        if is_shaded and self._reader is not None:
            self._reader.read(placed, self._slots, depsgraph)
        spans = self._slots.spans()
        lengths = spans[:, 1] - spans[:, 0]
        vertices = np.full((int(lengths.sum()), 3), np.nan, dtype=np.float32)
        shift = np.cumsum(lengths) - lengths - spans[:, 0]
        for mesh, of_mesh in zip(meshes, starts, strict=True):
            if mesh.topology.num_vertices:
                places = of_mesh + shift[np.searchsorted(spans[:, 0], of_mesh, side="right") - 1]
                if not _place(vertices, mesh, places) and mesh.data is not None:
                    self._note_lost(mesh, int(frame))
        if self._spool is not None:
            self._spool.add(vertices, spans)
        else:
            self._blocks.append((vertices, spans))

    def finish(self, sheets: RenderSheets | None = None) -> GeometrySequence:
        """The whole shot.  ``sheets`` renders alpha that is no image; without, it is solid.

        Raises `SceneError` when no frame was added, and what ``sheets`` raises.
        """
        if not self._frames:
            raise SceneError("The shot has no frames; give it at least one.")
        # In the order of the names: the same shot gives the same arrays whatever order a depsgraph has.
        keys, slots = self._identities.keys, self._slots.all
        sequence = sorted(range(len(slots)), key=lambda slot: (keys[slots[slot].serial], slots[slot].epoch))
        chosen = [slots[number] for number in sequence]
        order = np.concatenate([np.zeros(0, np.int64), *(np.arange(slot.start, slot.end) for slot in chosen)])
        starts = np.cumsum([0, *(slot.shape.topology.num_vertices for slot in chosen)])
        self._contents.looks.render(sheets)
        own, cut = self._contents.looks.applied(
            [slot.look for slot in chosen], [slot.shape.topology.triangles for slot in chosen]
        )
        firsts = np.cumsum([0, *(len(triangles) for triangles in own)])
        triangles = np.concatenate(
            [np.zeros((0, 3), np.int32)]
            + [part + np.int32(start) for part, start in zip(own, starts, strict=False)]
        )
        epochs = self._slots.epochs(sequence, starts, firsts)
        counts = [len(part) for part in own]
        roles = np.concatenate([np.zeros(0, np.uint8), *map(_roles, chosen, counts)])
        roles = roles if roles.any() else None
        owners = [keys[slot.serial][1] for slot in chosen]
        names = sorted(set(owners))
        number_of = {name: number for number, name in enumerate(names)}
        objects = np.repeat(np.array([number_of[name] for name in owners], np.int32), counts)
        if self._reader is not None:
            self.shading = self._reader.joined(chosen, sequence, counts, names)
        cameras, frames = join_cameras(self._cameras), tuple(self._frames)
        notes = tuple(sorted((*self._contents.notes, *self._in_view.notes)))
        if self._spool is not None:
            return self._spool.finish(
                triangles, order, cameras, frames, self._appearance, notes, cut, epochs, roles, objects, tuple(names)
            )
        vertices = np.full((len(frames), self._slots.num_vertices, 3), np.nan, dtype=np.float32)
        for one, (block, spans) in zip(vertices, self._blocks, strict=True):
            one[np.concatenate([np.zeros(0, np.int64), *(np.arange(*span) for span in spans)])] = block
            one[:] = one[order]
        changes = None if epochs is None else Changes(epochs, tuple(self._arrays))
        return GeometrySequence(
            triangles, vertices, cameras, frames, self._appearance, notes, cut, changes, roles, objects, tuple(names)
        )

    def _note_lost(self, mesh: Mesh, frame: int) -> None:
        """Vertices of ``mesh`` are nowhere in the ``frame``: say so once of each object that shows it."""
        for name in {placement.name[1] for placement in mesh.placements} - self._lost:
            self._lost.add(name)
            self._contents.note(
                name,
                "no_number",
                f"has points that are no numbers, or farther away than {FAR:g} units, first at frame {frame}: faces "
                "that have them are not tracked there",
            )

    def _keep(self, array: np.ndarray) -> int:
        self._arrays.append(array)
        return len(self._arrays) - 1


def _roles(slot: Slot, count: int) -> np.ndarray:
    """[M] u8: of the ``count`` triangles of a ``slot``."""
    found, look = np.full(count, slot.role, np.uint8), slot.look
    if look is not None and look.hole is not None and len(look.hole) == count:
        found[look.hole] = HOLE
    return found


def _place(vertices: np.ndarray, mesh: Mesh, starts: np.ndarray) -> bool:
    """Write the world-space vertices of every instance of ``mesh`` into ``vertices`` [N,3] at ``starts`` [K]; returns
    whether all of them are somewhere.

    A vertex that is nowhere, or farther than `FAR`, is absent, and so is every triangle that it has.
    """
    num_vertices = mesh.topology.num_vertices
    matrices = np.concatenate([placement.matrices for placement in mesh.placements])
    linear, offsets = matrices[:, :, :3], matrices[:, :, 3]
    with np.errstate(invalid="ignore", over="ignore"):
        for_each = mesh.positions @ linear.transpose(0, 2, 1)
        for_each += offsets[:, None, :]
        is_whole = bool(-FAR < for_each.min() and for_each.max() < FAR)
        if not is_whole:
            for_each[~(np.abs(for_each) < FAR).all(axis=2)] = np.nan
    if len(starts) == 1:
        vertices[starts[0] : starts[0] + num_vertices] = for_each[0]
    else:
        vertices[starts[:, None] + np.arange(num_vertices)] = for_each
    return is_whole
