# SPDX-License-Identifier: GPL-3.0-or-later
"""Which instance of a frame is which instance of the frame before.

Particles, collections, and whatever has an `id` keep their numbers.  Everything else is counted through: as long as the
same numbers are there, they mean the same; when some come or go, the numbers of the rest mean nothing, and each
instance is the one that was nearest to where it is now, if that is near enough.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from mathutils.kdtree import KDTree

from .instances import Mesh

NEIGHBOURS = 4
"""So many instances of the frame before are tried for one of now."""
REACH, SPACING_REACH = 2.0, 0.5
"""How far an instance may have come: as a multiple of its radius, or of the distance between instances."""


@dataclass
class _Group:
    """Instances of one origin as they were when last seen, and the serials of all that ever were."""

    numbers: np.ndarray
    keys: list[tuple]
    serials: np.ndarray
    places: np.ndarray
    steps: np.ndarray
    by_key: dict[tuple, int]


class Identities:
    """Serial numbers for instances; ``keys[serial]``: (parent, object, particle system, numbers, occurrence)."""

    def __init__(self):
        self.keys: list[tuple] = []
        self._groups: dict[tuple, _Group] = {}
        self._taken: set[tuple] = set()

    def assign(self, meshes: list[Mesh]) -> list[np.ndarray]:
        """For each of the frame's ``meshes`` the serials [K] of its instances, placement by placement."""
        groups: dict[tuple, list] = {}
        for index, mesh in enumerate(meshes):
            for placement in mesh.placements:
                groups.setdefault(placement.name, []).append((index, placement))
        serials: dict[int, np.ndarray] = {}
        for name, members in groups.items():
            found = self._of_group(name, members, meshes)
            bounds = np.cumsum([len(placement.rows) for _, placement in members])[:-1]
            for (_, placement), part in zip(members, np.split(found, bounds), strict=True):
                serials[id(placement)] = part
        none = np.zeros(0, np.int64)
        return [np.concatenate([none, *(serials[id(one)] for one in mesh.placements)]) for mesh in meshes]

    def _of_group(self, name: tuple, members: list, meshes: list[Mesh]) -> np.ndarray:
        numbers = np.concatenate([placement.numbers for _, placement in members])
        places = np.concatenate([placement.matrices[:, :, 3] for _, placement in members])
        group = self._groups.get(name)
        if group is not None and np.array_equal(group.numbers, numbers):
            group.steps, group.places = places - group.places, places
            return group.serials
        rows = np.concatenate([placement.rows for _, placement in members])
        keys = _keys(numbers, rows)
        if group is None:
            serials = self._new(name, keys)
            group = _Group(numbers, keys, serials, places, np.zeros_like(places), dict(zip(keys, serials, strict=True)))
            self._groups[name] = group
            return serials
        if members[0][1].is_stable or not _are_counted(group.numbers, numbers):
            serials = self._by_number(name, group, keys)
        elif set(group.keys) == set(keys):
            known = dict(zip(group.keys, group.serials.tolist(), strict=True))
            serials = np.array([known[key] for key in keys])
        else:
            radii = np.concatenate([_radii(meshes[index], placement) for index, placement in members])
            serials = self._by_place(name, group, keys, places, radii)
        _note(group, numbers, keys, serials, places)
        return serials

    def _by_number(self, name, group: _Group, keys: list[tuple]) -> np.ndarray:
        new = [key for key in keys if key not in group.by_key]
        if new:
            group.by_key.update(zip(new, self._new(name, new).tolist(), strict=True))
        return np.array([group.by_key[key] for key in keys], np.int64)

    def _by_place(self, name, group: _Group, keys, places, radii) -> np.ndarray:
        chosen = _nearest(group, keys, places, radii)
        serials = np.where(chosen >= 0, group.serials[chosen], -1)
        new = np.flatnonzero(chosen < 0)
        serials[new] = self._new(name, [keys[number] for number in new])
        return serials

    def _new(self, name: tuple, keys: list[tuple]) -> np.ndarray:
        first = len(self.keys)
        for numbers, occurrence in keys:
            while (*name, numbers, occurrence) in self._taken:
                occurrence += 1
            self._taken.add((*name, numbers, occurrence))
            self.keys.append((*name, numbers, occurrence))
        return np.arange(first, len(self.keys))


def _keys(numbers: np.ndarray, rows: np.ndarray) -> list[tuple]:
    """(numbers, occurrence) of each instance: those with equal numbers are counted through in the depsgraph's order."""
    counts: Counter = Counter()
    keys: list[tuple] = [()] * len(rows)
    listed = numbers.tolist()
    for place in np.argsort(rows, kind="stable").tolist():
        own = tuple(listed[place])
        counts[own] += 1
        keys[place] = (own, counts[own])
    return keys


def _note(group: _Group, numbers, keys, serials, places) -> None:
    """What the next frame is compared with."""
    before = dict(zip(group.serials.tolist(), range(len(group.serials)), strict=True))
    came_from = np.array([before.get(serial, -1) for serial in serials.tolist()], np.int64)
    steps = np.zeros_like(places)
    there = np.flatnonzero(came_from >= 0)
    steps[there] = places[there] - group.places[came_from[there]]
    group.numbers, group.keys, group.serials, group.places, group.steps = numbers, keys, serials, places, steps


def _are_counted(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether the numbers [K,8] that changed were only counted through: 0, 1, 2 … in both frames."""
    for column in range(now.shape[1]):
        old, new = np.unique(before[:, column]), np.unique(now[:, column])
        if np.array_equal(old, new):
            continue
        if np.array_equal(old, np.arange(len(old))) and np.array_equal(new, np.arange(len(new))):
            return True
    return False


def _radii(mesh: Mesh, placement) -> np.ndarray:
    """[K] f32: how large the instances are in the world."""
    points = mesh.positions[np.isfinite(mesh.positions).all(axis=1)]
    radius = float(np.linalg.norm(np.ptp(points, axis=0))) / 2.0 if len(points) else 0.0
    return radius * np.linalg.norm(placement.matrices[:, :, :3], axis=1).max(axis=1)


def _nearest(group: _Group, keys: list[tuple], places: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """[K] i64: for each instance of now its number in the frame before, −1 for those that were not there."""
    chosen = np.full(len(places), -1, np.int64)
    expected = group.places + group.steps
    if not (np.isfinite(expected).all() and np.isfinite(places).all()):
        return chosen
    tree = KDTree(len(expected))
    for number, place in enumerate(expected.tolist()):
        tree.insert(place, number)
    tree.balance()
    found = [tree.find_n(place, NEIGHBOURS) for place in places.tolist()]
    spacing = [near[1][2] for near in (tree.find_n(place, 2) for place in expected.tolist()) if len(near) > 1]
    reach = np.maximum(REACH * radii, SPACING_REACH * float(np.median(spacing)) if spacing else 0.0)
    pairs = _with_their_numbers(group, keys, places, expected, found)
    pairs += sorted((far, now, old) for now, near in enumerate(found) for _, old, far in near)
    free = np.ones(len(expected), bool)
    for far, now, old in pairs:
        if chosen[now] < 0 and free[old] and far <= reach[now]:
            chosen[now], free[old] = old, False
    return chosen


def _with_their_numbers(group: _Group, keys, places, expected, found) -> list[tuple[float, int, int]]:
    """(distance, now, before) of those that kept their numbers, where that explains how all moved as well as nearness
    does: instances that are added to the end, or taken from there.
    """
    before = {key: number for number, key in enumerate(group.keys)}
    pairs = [(now, before[key]) for now, key in enumerate(keys) if key in before]
    if not pairs:
        return []
    now, old = np.array(pairs).T
    far = np.linalg.norm(places[now] - expected[old], axis=1)
    nearest = np.array([found[number][0][2] for number in now.tolist()])
    if np.median(far) > 1.5 * np.median(nearest) + 1e-6 * np.abs(places).max():
        return []
    return list(zip(far.tolist(), now.tolist(), old.tolist(), strict=True))
