# SPDX-License-Identifier: GPL-3.0-or-later
"""What the materials of a mesh leave of it: triangles that are no surface go, those with an image's alpha are cut out,
and so are those whose alpha can be rendered as an image (`sheets`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...tracking.cut_outs import AlphaPicture, CutOuts
from ...tracking.projection import Pinhole
from ..choices import sees_through
from .laid import Laid, uv_of
from .shader import HALF, Alpha, Seen, is_animated, is_displaced, read_material
from .sheets import Rendered, Sheet, sheet_of
from .steady import Wanted, wanted_by

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
_NO_SURFACE = {
    True: ("volume", "has a volume and no surface: it is not tracked, and what is behind it is tracked through it"),
    False: (
        "transparent",
        "is more transparent than opaque: it is not tracked, and what is behind it is tracked through it",
    ),
}
_HOLE = ("holdout", "cuts a hole into the picture: it is black, and nothing is tracked in it or through it")
_CHANGING = "whose alpha changes over time: it is tracked as it is at first"
_TOO_MANY = "whose alpha is on more triangles than there is room for in an image: it is tracked as if it were solid"
_DISPLACED = "displaces its surface: the mesh is tracked as it is before that"
_PASSED = ("see_through", "lets light through: what is behind it is tracked through it, as was chosen")

RenderSheets = Callable[[list[Sheet]], Rendered | None]
"""``render(sheets)``: see `sheet_render.render_sheets`."""


@dataclass(frozen=True)
class Look:
    """What is left of a mesh of ``num_triangles``.

    ``kept`` [K] i64: the triangles that are seen, some twice.  ``cut`` [C] i64: which of those, by their place in
    ``kept``, are cut out by ``picture`` [C] i32 (indices into `Looks.pictures`) at ``uv`` [C,3,2] f32.  ``sheet``: of
    others, whose alpha is to be rendered.  ``hole`` [K] bool: which of those that are kept are holes, None where none
    is.  ``laid``: where the images lie.
    """

    num_triangles: int
    kept: np.ndarray
    cut: np.ndarray
    picture: np.ndarray
    uv: np.ndarray
    sheet: Sheet | None = None
    hole: np.ndarray | None = None
    laid: tuple[Laid, ...] = ()


class Looks:
    """Reads the materials of a shot's meshes, each once.  ``note(name, code, words)`` is told of every `Note`."""

    def __init__(self, note):
        self._note = note
        self._seen: dict[str, Seen] = {}
        self._animated: set[str] = set()
        self._displaced: set[str] = set()
        self._numbers: dict[tuple, int | None] = {}
        self._looks: dict[tuple, Look | None] = {}
        self._wanted: dict[str, Wanted | None] = {}
        self._sheets: list[tuple[str, Sheet]] = []
        self._rendered: dict[Sheet, np.ndarray] = {}
        self._moved: set[Sheet | int] = set()
        self.pictures: list[AlphaPicture] = []

    def is_nothing(self, shape, data, layer) -> bool:
        """Whether nothing of the mesh ``data`` of the object ``shape`` is a surface."""
        materials = materials_of(shape, data, layer)
        seen = [self._read(material) for material in materials]
        for material, first in zip(materials, seen, strict=True):
            if material is not None and material.name_full in self._animated and read_material(material) != first:
                self._note(shape.name, "changing_alpha", f"has a material {material.name!r} {_CHANGING}")
        if not all(_is_nothing(one) for one in seen):
            for material in materials:
                if material is not None and material.name_full in self._displaced:
                    self._note(shape.name, "displaced", f"has a material {material.name!r} that {_DISPLACED}")
            return False
        self._note(shape.name, *_NO_SURFACE[seen[0].is_volume])
        return True

    def is_hole(self, shape, number: int, layer) -> bool:
        """Whether the material ``number`` (from 0 on, the last one for those beyond) of the object ``shape`` is a hole.
        """
        materials = materials_of(shape, shape.data, layer)
        material = materials[min(max(number, 0), len(materials) - 1)]
        seen = self._read(material)
        if seen.is_hole:
            self._tell(shape, material, seen)
        return seen.is_hole

    def of(self, name: tuple[str, str, str], shape, mesh, layer) -> Look | None:
        """What is left of the ``mesh`` (of `instances`) of the object ``shape``, whose instances are called ``name``,
        as it was when it had this topology first; None for all of it.
        """
        materials = materials_of(shape, mesh.data, layer)
        seen = [self._read(material) for material in materials]
        if sees_through(shape):
            seen = [replace(one, is_passed=one.is_glass) for one in seen]
        if all(one == Seen(Alpha()) for one in seen):
            return None
        key = (name, mesh.topology.num_vertices, mesh.topology.num_faces, zlib.crc32(mesh.topology.corners))
        if key not in self._looks:
            mesh.triangles()
            self._looks[key] = self._look(shape, mesh.data, materials, seen)
        return self._looks[key]

    def _look(self, shape, data, materials: list, seen: list[Seen]) -> Look | None:
        index = np.zeros(len(data.loop_triangles), np.int32)
        if len(materials) > 1:
            data.loop_triangles.foreach_get("material_index", index)
            index = np.clip(index, 0, len(materials) - 1)
        unread = []
        for number in np.unique(index):
            self._tell(shape, materials[number], seen[number])
            if seen[number].alpha.procedural and not seen[number].is_passed:
                unread.append(int(number))
        gone = np.array([_is_nothing(one) for one in seen])
        kept = np.flatnonzero(~gone[index])
        backed = kept[np.array([one.backs and not one.is_passed for one in seen])[index[kept]]]
        loops = np.empty((len(data.loop_triangles), 3), np.int32)
        data.loop_triangles.foreach_get("loops", loops.reshape(-1))
        cut, picture, laid = [], [], []
        for number, one in enumerate(seen):
            places = np.flatnonzero(index[kept] == number)
            if one.alpha.image is not None and len(places):
                found = self._picture(one.alpha), uv_of(data, one.alpha)
                if found[0] is None or found[1] is None:
                    unread.append(number)
                    continue
                cut.append(places)
                picture.append(np.full(len(places), found[0], np.int32))
                corners = loops[kept[places]]
                laid.append(Laid(shape.name, materials[number].name, one.alpha, corners, found[1][corners]))
        sheet = self._sheet(shape, data, materials, sorted(unread), kept, index)
        # Behind what is cut out, where that is held out: the same triangles once more, and whole.
        kept = np.concatenate([kept, backed])
        hole = np.array([one.is_hole for one in seen])[index[kept]]
        hole[len(kept) - len(backed) :] = True
        if not cut and sheet is None and not hole.any() and len(kept) == len(index):
            return None
        return Look(
            len(index),
            kept,
            np.concatenate([np.zeros(0, np.int64), *cut]),
            np.concatenate([np.zeros(0, np.int32), *picture]),
            np.concatenate([np.zeros((0, 3, 2), np.float32), *(one.uv for one in laid)]),
            sheet,
            hole if hole.any() else None,
            tuple(laid),
        )

    def see(self, meshes: list, camera: Pinhole) -> None:
        """A frame shows ``meshes`` (of `instances`) with all their instances to ``camera``."""
        owners = {sheet: name for name, sheet in self._sheets}
        for mesh in (mesh for mesh in meshes if mesh.has_look):
            known: dict[tuple, object] = {}  # of objects that share a mesh and materials one tells of all
            for placement in (one for one in mesh.placements if one.look is not None):
                sheet = placement.look.sheet
                if sheet is not None:
                    sheet.see(mesh.positions, placement.matrices, camera)
                    if sheet not in self._moved:
                        self._look_again(owners[sheet], sheet, mesh, known)
                for laid in placement.look.laid:
                    key = (laid.material, laid.alpha)
                    if id(laid) in self._moved:
                        continue
                    if key not in known:
                        known[key] = laid.has_moved(mesh.data)
                    if not known[key]:
                        continue
                    self._moved.add(id(laid))
                    self._note(laid.name, "changing_alpha", f"has a material {laid.material!r} {_CHANGING}")

    def render(self, by: RenderSheets | None) -> None:
        """Let ``by`` render the alpha that is no image; None: it is tracked as if it were solid, and said to be."""
        if not self._sheets:
            return
        found = by([sheet for _, sheet in self._sheets]) if by is not None else None
        if found is None:
            for name, sheet in self._sheets:
                for material in sheet.materials:
                    self._note(name, "alpha", _solid(material))
            return
        levels, places = found
        self.pictures.append(AlphaPicture(levels, np.iinfo(levels.dtype).max / 2.0, extension="EXTEND"))
        for (name, sheet), uv in zip(self._sheets, places, strict=True):
            if uv is not None:
                self._rendered[sheet] = uv
                continue
            for material in sheet.materials:
                self._note(name, "alpha", f"has a material {material!r} {_TOO_MANY}")

    def applied(
        self, looks: list[Look | None], triangles: list[np.ndarray]
    ) -> tuple[list[np.ndarray], CutOuts | None]:
        """Of the ``triangles`` [M,3] of each of some instances with these ``looks``, those that are seen; and which are
        cut out.
        """
        left, first, cut = [], 0, []
        for look, own in zip(looks, triangles, strict=True):
            if look is not None and look.num_triangles == len(own):
                own = own[look.kept]
                places, uv, picture = self._cut(look)
                if len(places):
                    order = np.argsort(places)
                    cut.append((places[order] + first, uv[order], picture[order]))
            left.append(own)
            first += len(own)
        if not cut:
            return left, None
        places, uv, picture = (np.concatenate(part) for part in zip(*cut, strict=True))
        return left, CutOuts(places.astype(np.int32), uv, picture, tuple(self.pictures))

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look_again(self, name: str, sheet: Sheet, mesh, known: dict) -> None:
        """Say it once where what the alpha of a ``sheet`` of the object ``name`` looks up is not what it was."""
        key = tuple(sheet.materials)
        if key not in known:
            is_bent = sheet.local is not None and not np.array_equal(sheet.local, mesh.positions, equal_nan=True)
            known[key] = sheet.moved(mesh.data), is_bent
        attribute, is_bent = known[key]
        for material in sheet.materials:
            wanted = self._wanted[material]
            looked_up = wanted.names | ({sheet.uv_map} if "" in wanted.names else set())
            if attribute is not None and attribute in looked_up:
                words = f"whose alpha follows {attribute!r}, which changes over time: it is tracked as it is at first"
                self._note(name, "changing_alpha", f"has a material {material!r} {words}")
            elif is_bent and wanted.local:
                self._note(name, "changing_alpha", f"has a material {material!r} {_CHANGING}")
        if attribute is not None or is_bent:
            self._moved.add(sheet)

    def _read(self, material) -> Seen:
        name = material.name_full if material is not None else ""
        if name not in self._seen:
            seen = self._seen[name] = read_material(material)
            if is_animated(material) and not seen.alpha.procedural:
                self._animated.add(name)
            if is_displaced(material):
                self._displaced.add(name)
        return self._seen[name]

    def _tell(self, shape, material, seen: Seen) -> None:
        if seen.is_passed:
            self._note(shape.name, *_PASSED)
        elif seen.is_hole or seen.backs:
            where = "holds out" if seen.backs else "is there"
            self._note(shape.name, _HOLE[0], f"{_HOLE[1]}, where its material {material.name!r} {where}")
        elif _is_nothing(seen):
            code, words = _NO_SURFACE[seen.is_volume]
            self._note(shape.name, code, f"{words} where its material is {material.name!r}")
        elif seen.is_glass:
            self._note(
                shape.name,
                "glass",
                f"lets light through its material {material.name!r}: its surface is tracked, not what is seen "
                "through it",
            )

    def _sheet(self, shape, data, materials: list, unread: list[int], kept, index) -> Sheet | None:
        """Of the triangles that are ``kept`` [K] of the mesh ``data``, with the materials ``index`` [M], those that
        have one of the ``unread``; None where none has one whose alpha can be rendered.
        """
        wanted = [self._wants(materials[number]) for number in unread]
        read = [number for number, one in zip(unread, wanted, strict=True) if one is not None]
        sheet = None
        if read:
            places = np.flatnonzero(np.isin(index[kept], read))
            which = np.searchsorted(read, index[kept[places]]).astype(np.int32)
            used = [materials[number].name_full for number in read]
            sheet = sheet_of(data, kept, places, which, used, [one for one in wanted if one is not None])
        for number in unread:
            if sheet is None or number not in read:
                self._note(shape.name, "alpha", _solid(materials[number].name))
        if sheet is not None:
            self._sheets.append((shape.name, sheet))
        return sheet

    def _wants(self, material) -> Wanted | None:
        if material.name_full not in self._wanted:
            self._wanted[material.name_full] = wanted_by(material)
        return self._wanted[material.name_full]

    def _cut(self, look: Look) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places [C], UVs [C,3,2] and pictures [C] of the triangles that are cut out."""
        found = self._rendered.get(look.sheet)
        if found is None:
            return look.cut, look.uv, look.picture
        number = np.full(len(found), len(self.pictures) - 1, np.int32)
        return (
            np.concatenate([look.cut, look.sheet.places]),
            np.concatenate([look.uv, found]),
            np.concatenate([look.picture, number]),
        )

    def _picture(self, alpha: Alpha) -> int | None:
        """The number of the picture that ``alpha`` is; None where its image has no pixels."""
        node = alpha.image
        known = (node.image.name_full, alpha.channel, alpha.gain, alpha.bias, node.interpolation, node.extension)
        known += (bool(node.outputs[1].links),)
        if known not in self._numbers:
            found = _levels(node, alpha.channel)
            self._numbers[known] = None
            if found is not None:
                levels, is_coded = found
                threshold = (HALF - alpha.bias) / alpha.gain
                threshold = 255.0 * float(_coded(threshold) if is_coded else threshold)
                is_inverted = alpha.gain < 0.0
                if is_inverted:
                    threshold = np.nextafter(threshold, np.inf)
                is_smooth = node.interpolation != "Closest"
                self.pictures.append(AlphaPicture(levels, threshold, is_inverted, is_smooth, node.extension))
                self._numbers[known] = len(self.pictures) - 1
        return self._numbers[known]


def _solid(material: str) -> str:
    return f"has a material {material!r} whose alpha cannot be made an image: it is tracked as if it were solid"


def _is_nothing(seen: Seen) -> bool:
    alpha = seen.alpha
    if seen.is_hole and not seen.is_passed:
        return False
    return seen.is_volume or seen.is_passed or (not alpha.procedural and alpha.gain == 0.0 and alpha.bias < HALF)


def materials_of(shape, data, layer) -> list:
    """The materials of the object ``shape`` with ``data``, by index; one at least, which may be None."""
    override = getattr(layer, "material_override", None)
    if override is not None:
        return [override]
    found = list(data.materials)
    for index, slot in enumerate(shape.material_slots):
        if slot.link == "OBJECT" and index < len(found):
            found[index] = slot.material
    return found or [None]


def _levels(node, channel: int | None) -> tuple[np.ndarray, bool] | None:
    """[h,w] u8 of one channel of an image texture, 0 to 3, or of its luminance, rows bottom-up, and whether they are
    coded as sRGB is, between whose codes a render interpolates; None where the image has no pixels.
    """
    image = node.image
    (width, height), channels = image.size, image.channels
    if not width * height * channels:
        return None
    pixels = np.empty(width * height * channels, np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(height, width, channels)
    alpha = pixels[..., 3] if channels == 4 else np.ones((height, width), np.float32)
    if channel == 3:
        return _bytes(alpha), False
    colours = pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    is_data, is_coded = image.colorspace_settings.is_data, image.colorspace_settings.name == "sRGB"
    is_laid_over_black = not is_data and image.alpha_mode in ("STRAIGHT", "PREMUL") and not node.outputs[1].links
    if is_laid_over_black and not image.is_float:  # pixels of float images are
        colours = colours * alpha[..., None]
    if channel is not None:
        values = colours[..., channel]
    elif is_coded and not image.is_float:
        values = _coded(_decoded(colours) @ _LUMINANCE)
    else:
        values = colours @ _LUMINANCE
    return _bytes(values), is_coded and not image.is_float


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def _decoded(values):
    """sRGB codes of 0 to 1 as linear light."""
    return np.where(values <= 0.04045, values / 12.92, ((np.maximum(values, 0.0) + 0.055) / 1.055) ** 2.4)


def _coded(values):
    """The inverse of `_decoded`."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * np.maximum(values, 0.0031308) ** (1.0 / 2.4) - 0.055)
