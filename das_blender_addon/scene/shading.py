# SPDX-License-Identifier: GPL-3.0-or-later
"""How the surfaces of one frame are shaded and numbered: corner normals, and the pass indices of objects and materials.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ..tracking.passes import Shading
from .content.surfaces import materials_of
from .instances import Mesh
from .slots import Slot, Slots

_NO_ROW = -1
NO_MATERIAL = "default_surface"
"""What Cycles calls the material of objects that have none."""


@dataclass(frozen=True)
class _Named:
    """An object with its materials: names and pass indices; ``asset``: its topmost parent's name."""

    name: str
    asset: str
    index: int
    material_indices: list[int]
    materials: list[str]


class ShadingReader:
    """Reads the one frame that `read` is called for, while its meshes are there; `joined` is called at the end."""

    def __init__(self):
        self._normals: list[np.ndarray] = []
        self._materials: list[np.ndarray] = []
        self._num_rows = 0
        self._rows: dict[int, int] = {}
        self._turns: dict[int, tuple[np.ndarray, float]] = {}
        self._known: dict[str, _Named] = {}

    def read(self, placed: list[tuple[Mesh, np.ndarray]], slots: Slots, depsgraph) -> None:
        """``placed``: the frame's meshes with the serials [K] of their instances, which have their ``slots``."""
        layer = depsgraph.view_layer
        for shape in depsgraph.ids:  # its objects are those of the scene, without those that only collections show
            if not isinstance(shape, bpy.types.Object):
                continue
            data = shape.data
            materials = materials_of(shape, data, layer) if hasattr(data, "materials") else [None]
            self._known[shape.name_full] = _Named(
                shape.name,
                _topmost(shape).name,
                shape.pass_index,
                [0 if material is None else material.pass_index for material in materials],
                [NO_MATERIAL if material is None else material.name for material in materials],
            )
        for mesh, serials in placed:
            if not mesh.topology.num_vertices:
                continue
            first_of_shape: dict[int, int] = {}
            matrices = np.concatenate([placement.matrices for placement in mesh.placements])[:, :, :3]
            turns, mirrored = _turns(matrices.astype(np.float64))
            for number, turn, is_mirrored in zip(slots.numbers(serials).tolist(), turns, mirrored, strict=True):
                shape = slots.all[number].shape
                if mesh.data is not None and shape.number not in first_of_shape:
                    first_of_shape[shape.number] = self._num_rows
                    self._add_rows(mesh, shape.topology.loops)
                self._rows[number] = first_of_shape.get(shape.number, _NO_ROW)
                self._turns[number] = turn, -1.0 if is_mirrored else 1.0

    def joined(self, slots: list[Slot], numbers: list[int], counts: list[int], names: list[str]) -> Shading:
        """Of the triangles of ``slots``, which are number ``numbers`` and have so many (``counts``) each, and belong to
        the objects ``names``.
        """
        rows = []
        for slot, number, count in zip(slots, numbers, counts, strict=True):
            first, look = self._rows.get(number, _NO_ROW), slot.look
            if first == _NO_ROW:
                rows.append(np.full(count, _NO_ROW, np.int32))
            elif look is not None and len(look.kept) == count:
                rows.append((first + look.kept).astype(np.int32))
            else:
                rows.append(np.arange(first, first + count, dtype=np.int32))
        nowhere = np.eye(3), 1.0
        found = [self._turns.get(number, nowhere) for number in numbers]
        known = [self._known.get(name) or _Named(name, name, 0, [0], [NO_MATERIAL]) for name in names]
        return Shading(
            row=np.concatenate([np.zeros(0, np.int32), *rows]),
            normals=np.concatenate([np.zeros((0, 3, 3), np.float32), *self._normals]),
            material=np.concatenate([np.zeros(0, np.int32), *self._materials]),
            member=np.repeat(np.arange(len(slots), dtype=np.int32), counts),
            turns=np.array([turn for turn, _ in found], np.float32).reshape(-1, 3, 3),
            signs=np.array([sign for _, sign in found], np.float32),
            object_index=np.array([one.index for one in known], np.int32),
            material_index=np.array([index for one in known for index in one.material_indices], np.int32),
            first_material=np.cumsum([0, *(len(one.materials) for one in known)]),
            object_names=tuple(one.name for one in known),
            assets=tuple(one.asset for one in known),
            material_names=tuple(name for one in known for name in one.materials),
        )

    def _add_rows(self, mesh: Mesh, loops: np.ndarray) -> None:
        data = mesh.data
        corners = np.empty((len(data.loops), 3), np.float32)
        data.corner_normals.foreach_get("vector", corners.reshape(-1))
        normals = corners[loops]
        data.calc_loop_triangles()
        polygon, material = (np.empty(len(loops), np.int32) for _ in range(2))
        data.loop_triangles.foreach_get("polygon_index", polygon)
        data.loop_triangles.foreach_get("material_index", material)
        sharp = data.attributes.get("sharp_face")
        if sharp is not None:
            is_flat = np.zeros(len(data.polygons), bool)
            sharp.data.foreach_get("value", is_flat)
            normals[is_flat[polygon]] = np.nan
        self._normals.append(normals)
        self._materials.append(material)
        self._num_rows += len(loops)


def _topmost(shape):
    while shape.parent is not None:
        shape = shape.parent
    return shape


def _turns(linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[K,3,3]: what turns normals into world space, up to their length, and [K] bool: it mirrors; of matrices [K,3,3].
    """
    x, y, z = (linear[:, row] for row in range(3))
    cofactors = np.stack([np.cross(y, z), np.cross(z, x), np.cross(x, y)], axis=1)
    mirrored = np.einsum("kx,kx->k", x, cofactors[:, 0]) < 0.0
    return cofactors * np.where(mirrored, -1.0, 1.0)[:, None, None], mirrored
