# SPDX-License-Identifier: GPL-3.0-or-later
"""Sheets: the triangles of a mesh whose alpha is no image, each with what its material looks up at its corners, laid
out flat side by side, so that one render of all of them (`sheet_render`) is an image that cuts them out.

Every triangle has a rectangle of its own, onto which what is at its corners goes on linearly: no seam is between what
is sampled at its edge.  A triangle is as large there as it comes to be in the picture, times `TEXELS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...tracking.projection import Pinhole
from .steady import Wanted

GENERATED, LOCAL = "das generated", "das object"
"""Names of attributes: coordinates of the surface where nothing has deformed it, 0 to 1 in its box; of the object."""
TEXELS = 4.0
"""On a pixel's side."""
MOST_TEXELS = 1 << 23
LEAST_TEXELS = 9
"""Of a triangle."""
LONGEST = 2048.0
"""Texels of a triangle's side."""
_CHANNELS = {"FLOAT": 1, "INT": 1, "BOOLEAN": 1, "FLOAT2": 2, "FLOAT_VECTOR": 3, "FLOAT_COLOR": 4, "BYTE_COLOR": 4}
_DOMAINS = ("POINT", "CORNER", "FACE")
_FIELDS = {"FLOAT_VECTOR": "vector", "FLOAT2": "vector", "FLOAT_COLOR": "color", "BYTE_COLOR": "color"}
_MOST_INSTANCES = 256
"""Of one mesh whose sizes in the picture are looked at, the nearest ones."""


Rendered = tuple[np.ndarray, list[np.ndarray | None]]
"""The alpha of sheets as a picture [h,w] u16, rows bottom-up, and for each sheet where its triangles are in it [B,3,2]
f32, 0 to 1; None for one that has no room in it.
"""


@dataclass(eq=False)
class Sheet:
    """Of one mesh.  ``places`` [B] i64: its triangles, among those that are kept of the mesh; ``corners`` [B,3] i32:
    their vertices; ``materials``: names, and ``which`` [B] i32 of them each has.

    ``values``: by the attribute's name [B,3,k] f32, k: its channels; ``uv_map``: the name of the one that renders.
    ``local``: positions [N,3] f32 of the mesh, where its alpha lies in the object's space, else None.
    ``sides`` [B,3] f32: the most pixels that each triangle's sides, from corner 0, 1 and 2 on, have had.
    ``places_of``: by the attribute's name, where in it the ``values`` are [B,3].
    """

    places: np.ndarray
    corners: np.ndarray
    materials: list[str]
    which: np.ndarray
    values: dict[str, np.ndarray]
    uv_map: str
    local: np.ndarray | None
    sides: np.ndarray
    places_of: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many triangles it has."""
        return len(self.sides)

    def moved(self, data) -> str | None:
        """The name of an attribute that is not any more what it was, in the mesh ``data``; None where all are."""
        for name, places in self.places_of.items():
            now = _values(data, name)
            before = self.values[name]
            if now is None or now.shape[1] != before.shape[2] or places.max(initial=-1) >= len(now):
                return name
            if not np.array_equal(now[places], before):
                return name
        return None

    def see(self, positions: np.ndarray, matrices: np.ndarray, camera: Pinhole) -> None:
        """A frame shows instances of the mesh: ``positions`` [N,3] f32, ``matrices`` [K,3,4] f32, world from local."""
        used, corners = np.unique(self.corners, return_inverse=True)
        positions, corners = positions[used], corners.reshape(-1, 3)
        if len(matrices) > _MOST_INSTANCES:
            depth = np.nan_to_num(camera.optical_points(matrices[:, :, 3])[:, 2], nan=np.inf)
            depth[depth < 0.0] = np.inf
            matrices = matrices[np.argsort(depth, kind="stable")[:_MOST_INSTANCES]]
        for matrix in matrices:
            points = camera.optical_points(positions @ matrix[:, :3].T + matrix[:, 3])
            self._see(points[corners], camera)

    def _see(self, points: np.ndarray, camera: Pinhole) -> None:
        """One instance: ``points`` [B,3,3] f64, optical, of the corners."""
        depth = points[:, :, 2]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            seen = depth.max(axis=1) > camera.clip_start
            for axis, (middle, size) in enumerate(zip(camera.principal_px, (camera.width, camera.height), strict=True)):
                reach = 1.0 if camera.is_orthographic else depth
                low, high = -middle / camera.focal_px[axis] * reach, (size - middle) / camera.focal_px[axis] * reach
                seen &= ~((points[:, :, axis] < low).all(axis=1) | (points[:, :, axis] > high).all(axis=1))
            per_unit = np.full(len(points), max(camera.focal_px))
            if not camera.is_orthographic:
                per_unit /= np.maximum(depth.min(axis=1), camera.clip_start)
            sides = np.linalg.norm(np.roll(points, -1, axis=1) - points, axis=2) * per_unit[:, None]
        seen &= np.isfinite(sides).all(axis=1)
        self.sides[seen] = np.maximum(self.sides[seen], np.minimum(sides[seen], LONGEST))


def sheet_of(data, kept: np.ndarray, places: np.ndarray, which: np.ndarray, materials: list[str],
             wanted: list[Wanted]) -> Sheet | None:  # fmt: skip
    """The triangles ``places`` [B] of those ``kept`` [K] of the evaluated mesh ``data``, of the ``materials`` ``which``
    [B], whose alphas look up what is ``wanted``; None where the mesh lacks some of it.
    """
    triangles = kept[places]
    table = np.empty((2, len(data.loop_triangles), 3), np.int32)
    data.loop_triangles.foreach_get("vertices", table[0].reshape(-1))
    data.loop_triangles.foreach_get("loops", table[1].reshape(-1))
    faces = np.empty(len(data.loop_triangles), np.int32)
    data.loop_triangles.foreach_get("polygon_index", faces)
    corners, loops = table[:, triangles]
    of_domain = {"POINT": corners, "CORNER": loops, "FACE": np.repeat(faces[triangles][:, None], 3, axis=1)}
    uv_map = next((layer.name for layer in data.uv_layers if layer.active_render), "")
    names = {name or uv_map for one in wanted for name in one.names}
    values, places_of = {}, {}
    for name in sorted(names):
        found = _values(data, name)
        if found is None:
            return None
        places_of[name] = of_domain[data.attributes[name].domain]
        values[name] = found[places_of[name]]
    local = None
    if any(one.local for one in wanted):
        local = _vertices(data, "co")
        values[LOCAL] = local[corners]
    if any(one.generated for one in wanted):
        middle, half = (np.array(each, np.float32) for each in (data.texspace_location, data.texspace_size))
        there = (_vertices(data, "undeformed_co") - middle) / (2.0 * half) + np.float32(0.5)
        values[GENERATED] = there[corners].astype(np.float32)
    if any(not np.isfinite(each).all() for each in values.values()):
        return None
    sides = np.zeros((len(places), 3), np.float32)
    return Sheet(places, corners, materials, which, values, uv_map, local, sides, places_of)


def _vertices(data, name: str) -> np.ndarray:
    found = np.empty((len(data.vertices), 3), np.float32)
    data.vertices.foreach_get(name, found.reshape(-1))
    return found


def _values(data, name: str) -> np.ndarray | None:
    """[n,k] f32 of the attribute ``name`` of the mesh ``data``; None where it has none that can be laid out."""
    attribute = data.attributes.get(name) if name else None
    if attribute is None or attribute.data_type not in _CHANNELS or attribute.domain not in _DOMAINS:
        return None
    kind = attribute.data_type
    found = np.empty((len(attribute.data), _CHANNELS[kind]), {"INT": np.int32, "BOOLEAN": bool}.get(kind, np.float32))
    attribute.data.foreach_get(_FIELDS.get(kind, "value"), found.reshape(-1))
    return found.astype(np.float32)


# ── Layout ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Laid:
    """Triangles side by side in a picture of ``size`` (width, height) texels, v up.

    ``corners`` [B,3,2] f64: theirs; ``rectangles`` [B,4,2] f64: the corners of the rectangles that they lie in, around;
    ``shares`` [B,4,3] f64: of what is at a triangle's corners, at those of its rectangle.
    """

    size: tuple[int, int]
    corners: np.ndarray
    rectangles: np.ndarray
    shares: np.ndarray


def lay_out_most(sheets: list[Sheet]) -> tuple[list[int], Laid | None]:
    """The numbers of those of ``sheets`` that have room in one picture, increasing, and how they lie there: all, or all
    but the ones that have the most triangles; (none, None) where not one has.
    """
    chosen = list(range(len(sheets)))
    while chosen:
        if LEAST_TEXELS * sum(sheets[number].count for number in chosen) <= MOST_TEXELS:
            laid = lay_out(np.concatenate([sheets[number].sides for number in chosen]))
            if laid is not None:
                return chosen, laid
        chosen.remove(max(chosen, key=lambda number: sheets[number].count))
    return [], None


def lay_out(sides: np.ndarray) -> Laid | None:
    """Lay out triangles with ``sides`` [B,3] f32 pixels; None where they are too many."""
    sides, factor = sides.astype(np.float64), TEXELS
    for _ in range(16):
        width, height, apex, first = _shapes(sides * factor)
        cells = np.stack([np.ceil(width) + 2.0, np.ceil(height) + 2.0], axis=1)  # a texel around is sampled, too
        size, places = _packed(cells)
        if size[0] * size[1] <= MOST_TEXELS:
            break
        factor *= min(0.9, (MOST_TEXELS / (size[0] * size[1])) ** 0.5)
    else:
        return None
    corners = np.zeros((len(sides), 3, 2))
    corners[:, 1, 0], corners[:, 2, 0], corners[:, 2, 1] = width, apex, height
    rectangles = np.zeros((len(sides), 4, 2))
    rectangles[:, 1:3, 0], rectangles[:, 2:, 1] = cells[:, :1], cells[:, 1:]
    across, up = (rectangles[:, :, axis] - 1.0 for axis in (0, 1))
    third = up / height[:, None]
    second = (across - apex[:, None] * third) / width[:, None]
    shares = np.stack([1.0 - second - third, second, third], axis=2)
    corners += 1.0 + places[:, None]
    rectangles += places[:, None]
    back = (np.arange(3) - first[:, None]) % 3  # corners were counted from the longest side on
    corners = np.take_along_axis(corners, back[:, :, None], axis=1)
    shares = np.take_along_axis(shares, back[:, None, :], axis=2)
    return Laid(size, corners, rectangles, shares)


def _shapes(sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each [B]: width and height of triangles that lie on their longest side, where along it their third corner is, and
    which side it is.  All are at least a texel: a sliver is wider than it was.
    """
    first = np.argmax(sides, axis=1)
    ordered = np.take_along_axis(sides, (first[:, None] + np.arange(3)) % 3, axis=1)
    longest, _, back = np.maximum(ordered, 1e-9).T
    apex = np.clip((longest**2 + back**2 - ordered[:, 1] ** 2) / (2.0 * longest), 0.0, longest)
    height = np.sqrt(np.maximum(back**2 - apex**2, 0.0))
    width = np.maximum(longest, 1.0)
    return width, np.maximum(height, 1.0), apex * (width / longest), first


def _packed(cells: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """The size of a picture that has rectangles of ``cells`` [B,2] texels in rows, the high ones first, and where they
    are [B,2].
    """
    order = np.argsort(-cells[:, 1], kind="stable")
    ends = np.cumsum(cells[order, 0])
    wide = int(max(np.ceil(np.sqrt(cells.prod(axis=1).sum())), cells[:, 0].max()))
    places = np.empty_like(cells)
    start, before, top = 0, 0.0, 0.0
    while start < len(order):
        end = max(start + 1, int(np.searchsorted(ends, before + wide, side="right")))
        row = order[start:end]
        places[row, 0] = ends[start:end] - cells[row, 0] - before
        places[row, 1] = top
        top += cells[row[0], 1]
        start, before = end, ends[end - 1]
    return (wide, int(top)), places
