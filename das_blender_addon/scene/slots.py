# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each instance's vertices are among all vertices of a shot, and what happens when its topology changes.

An instance has one slot for as long as its mesh keeps its topology.  With another one it gets another slot, an epoch of
its own, which is linked to the one before (`tracking.changes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..tracking import changes as at
from ..tracking.changes import COLUMNS, NONE, combined
from ..tracking.geometry import TRACKED
from .content.surfaces import Look
from .fine import Fine, cut
from .instances import Mesh, Topology
from .matching import FINE_SHARE, Guide, Match, Surface, match

EVER = 2**62
"""Beyond every frame number."""


@dataclass(eq=False)
class Shape:
    """A topology that instances have or had, as the last frame that showed it, ``seen``, did.

    ``fine``: finer triangles, found when it changes for the first time; ``place``: their number in `Changes.arrays`.
    ``motion`` [n,3] f32: how its points had moved when it came.
    """

    number: int
    topology: Topology
    mesh: Mesh | None
    seen: int
    is_cut: bool = False
    fine: Fine | None = None
    place: int = NONE
    motion: np.ndarray | None = None


@dataclass(eq=False)
class Slot:
    """``start``: its first vertex.  ``serial``: whose it is; ``epoch``: which of that one's epochs.

    ``first``, ``last``: the frames of its life; ``before``, ``after``: the slots of its neighbours; ``link_before``,
    ``link_after``: numbers in `Changes.arrays`.  ``look``: what its materials leave of it.  ``role``: of its triangles.
    """

    start: int
    shape: Shape
    serial: int
    epoch: int = 0
    first: int = -EVER
    last: int = EVER
    before: int = NONE
    after: int = NONE
    link_before: int = NONE
    link_after: int = NONE
    look: Look | None = None
    role: int = TRACKED

    @property
    def end(self) -> int:
        return self.start + self.shape.topology.num_vertices


class Slots:
    """All slots of a shot.  ``keep(array)`` stores an array and returns its number."""

    def __init__(self, keep: Callable[[np.ndarray], int]):
        self.all: list[Slot] = []
        self.num_vertices = 0
        self._keep = keep
        self._current = np.zeros(0, np.int64)
        self._starts = np.zeros(1, np.int64)
        self._shape_numbers = np.zeros(1, np.int64)
        self._shapes: list[Shape] = []
        self._dead: list[tuple[int, int]] = []
        self._guides: dict[str, Mesh] = {}

    def of(
        self, placed: list[tuple[Mesh, np.ndarray]], guides: dict[str, Mesh], frame: int, before: int | None
    ) -> list[np.ndarray]:
        """For each mesh, with the serials [K] of its instances, their slots' first vertices [K]; `NONE` for a mesh that
        has no vertices.

        ``guides``: see `instances.read_meshes`.  ``frame``, ``before``: numbers of this frame and of the one before.
        """
        starts = [self._of_mesh(mesh, serials, guides, frame, before) for mesh, serials in placed]
        self._guides = guides
        return starts

    def spans(self) -> np.ndarray:
        """[S,2] i64: the vertices that frames may still have, from … to (not included)."""
        spans, reached = [], 0
        for first, last in sorted(self._dead):
            if first > reached:
                spans.append((reached, first))
            reached = last
        if reached < self.num_vertices:
            spans.append((reached, self.num_vertices))
        return np.array(spans, np.int64).reshape(-1, 2)

    def numbers(self, serials: np.ndarray) -> np.ndarray:
        """[K] i64: the numbers, in `all`, of the slots that the instances ``serials`` [K] have now."""
        return self._current[serials]

    def _of_mesh(self, mesh: Mesh, serials: np.ndarray, guides, frame: int, before) -> np.ndarray:
        if not mesh.topology.num_vertices:
            return np.full(len(serials), NONE)
        if len(serials) and serials.max() >= len(self._current):
            grown = np.full(max(64, 2 * int(serials.max() + 1)), NONE)
            grown[: len(self._current)] = self._current
            self._current = grown
        slots, own = self._current[serials], None
        looks = [placement.look for placement in mesh.placements for _ in placement.rows] if mesh.has_look else None
        roles = [placement.role for placement in mesh.placements for _ in placement.rows]
        shapes = np.where(slots == NONE, NONE, self._shape_numbers[slots])
        for number in np.unique(shapes).tolist():
            members = np.flatnonzero(shapes == number)
            if number != NONE and self._shapes[number].topology.equals(mesh.topology):
                self._shapes[number].mesh, self._shapes[number].seen = _without_data(mesh), frame
                continue
            if own is None:
                own = self._new_shape(mesh, frame)
            links = None if number == NONE else self._linked(self._shapes[number], own, mesh, guides, before)
            for member in members.tolist():
                slots[member] = self._new_slot(int(serials[member]), own, int(slots[member]), links, frame, before)
                if looks is not None:
                    self.all[slots[member]].look = looks[member]
                self.all[slots[member]].role = roles[member]
            self._current[serials] = slots
            self._let_go(number)
        return self._starts[slots]

    def _let_go(self, number: int) -> None:
        """Of a shape that no instance has any more, only its triangles are needed."""
        current = self._current[self._current != NONE]
        if number == NONE or (self._shape_numbers[current] == number).any():
            return
        shape = self._shapes[number]
        shape.mesh = shape.fine = shape.motion = None
        shape.topology.corners = shape.topology.corners[:0]

    def _new_shape(self, mesh: Mesh, frame: int) -> Shape:
        mesh.triangles()
        # A finer mesh would have no place for what is cut out.
        shape = Shape(len(self._shapes), mesh.topology, _without_data(mesh), frame, is_cut=mesh.has_look)
        self._shapes.append(shape)
        return shape

    def _new_slot(self, serial: int, shape: Shape, before: int, links, frame: int, frame_before) -> int:
        number = len(self.all)
        slot = Slot(self.num_vertices, shape, serial)
        if before != NONE:
            old = self.all[before]
            slot.before, slot.epoch, slot.first = before, old.epoch + 1, frame
            slot.link_before, old.link_after = links
            old.after, old.last = number, frame_before
            self._dead.append((old.start, old.end))
        self.all.append(slot)
        self.num_vertices += shape.topology.num_vertices
        if number >= len(self._starts):
            room = max(64, 2 * number)
            self._starts = np.concatenate([self._starts, np.zeros(room, np.int64)])
            self._shape_numbers = np.concatenate([self._shape_numbers, np.zeros(room, np.int64)])
        self._starts[number], self._shape_numbers[number] = slot.start, shape.number
        return number

    def _linked(self, old: Shape, new: Shape, mesh: Mesh, guides: dict[str, Mesh], before) -> tuple[int, int]:
        """The numbers of the links from ``new`` back to ``old`` and on from ``old`` to ``new``."""
        then, now = self._surface(old), self._surface(new)
        guide = self._guide(mesh, guides) if old.seen == before else None
        back, forth = match(now, then, expected=old.motion, guide=guide)
        new.motion = back.motion
        return self._kept(back), self._kept(forth)

    def _kept(self, found: Match) -> int:
        number = self._keep(found.corners)
        self._keep(found.weights)
        return number

    def _guide(self, mesh: Mesh, guides: dict[str, Mesh]) -> Guide | None:
        for placement in mesh.placements:
            before, after = (known.get(placement.name[1]) for known in (self._guides, guides))
            if before is not None and after is not None and before.topology.equals(after.topology):
                if after.topology.num_vertices:
                    return Guide(before.positions, after.positions, after.triangles())
        return None

    def _surface(self, shape: Shape) -> Surface:
        positions, topology = shape.mesh.positions, shape.topology
        if not shape.is_cut:
            shape.is_cut = True
            if len(positions) and np.isfinite(positions).all():
                size = float(np.linalg.norm(np.ptp(positions, axis=0)))
                shape.fine = cut(positions, topology.triangles, FINE_SHARE * size)
            if shape.fine is not None:
                shape.place = self._keep(shape.fine.triangles)
                self._keep(shape.fine.corners)
                self._keep(shape.fine.weights)
        if shape.fine is None:
            return Surface(positions, topology.triangles, shape.mesh.ids)
        points = combined(positions, shape.fine.corners, shape.fine.weights)  # the vertices come first
        return Surface(points, shape.fine.triangles, shape.mesh.ids)

    def epochs(self, order: list[int], starts: np.ndarray, triangles: np.ndarray) -> np.ndarray | None:
        """[E,11] i64 for `Changes`, None where no topology changed.

        ``order``: the slots in their final order; ``starts``, ``triangles`` [S+1]: their first vertices and triangles.
        """
        changing = [slot for slot in order if self.all[slot].before != NONE or self.all[slot].after != NONE]
        if not changing:
            return None
        numbers = {slot: number for number, slot in enumerate(changing)}
        places = {slot: place for place, slot in enumerate(order)}
        table = np.full((len(changing), COLUMNS), NONE, np.int64)
        for row, number in zip(table, changing, strict=True):
            slot, place = self.all[number], places[number]
            row[at.START], row[at.COUNT] = starts[place], slot.shape.topology.num_vertices
            row[at.TRIANGLES], row[at.NUM_TRIANGLES] = triangles[place], triangles[place + 1] - triangles[place]
            row[at.FIRST], row[at.LAST] = slot.first, slot.last
            row[at.BEFORE], row[at.AFTER] = numbers.get(slot.before, NONE), numbers.get(slot.after, NONE)
            row[at.FINE], row[at.LINK_BEFORE], row[at.LINK_AFTER] = (
                slot.shape.place, slot.link_before, slot.link_after)
        return table


def _without_data(mesh: Mesh) -> Mesh:
    return Mesh(mesh.positions, mesh.topology, mesh.ids)
