# SPDX-License-Identifier: GPL-3.0-or-later
"""What the materials of a mesh leave of it: triangles that are no surface go, those with an image's alpha are cut out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from ...tracking.cut_outs import AlphaPicture, CutOuts
from ..choices import sees_through
from .shader import HALF, Alpha, Seen, is_animated, read_material

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
_NO_SURFACE = {
    True: ("volume", "has a volume and no surface: it is not tracked, and what is behind it is tracked through it"),
    False: (
        "transparent",
        "is more transparent than opaque: it is not tracked, and what is behind it is tracked through it",
    ),
}
_PASSED = ("see_through", "lets light through: what is behind it is tracked through it, as was chosen")


@dataclass(frozen=True)
class Look:
    """What is left of a mesh of ``num_triangles``.

    ``kept`` [K] i64: the triangles that are seen.  ``cut`` [C] i64: which of those, by their place in ``kept``, are cut
    out by ``picture`` [C] i32 (indices into `Looks.pictures`) at ``uv`` [C,3,2] f32.
    """

    num_triangles: int
    kept: np.ndarray
    cut: np.ndarray
    picture: np.ndarray
    uv: np.ndarray


class Looks:
    """Reads the materials of a shot's meshes, each once.  ``note(name, code, words)`` is told of every `Note`."""

    def __init__(self, note):
        self._note = note
        self._seen: dict[str, Seen] = {}
        self._animated: set[str] = set()
        self._numbers: dict[tuple, int | None] = {}
        self._looks: dict[tuple, Look | None] = {}
        self.pictures: list[AlphaPicture] = []

    def is_nothing(self, shape, data, layer) -> bool:
        """Whether nothing of the mesh ``data`` of the object ``shape`` is a surface."""
        materials = materials_of(shape, data, layer)
        seen = [self._read(material) for material in materials]
        for material, first in zip(materials, seen, strict=True):
            if material is not None and material.name_full in self._animated and read_material(material) != first:
                words = "whose alpha changes over time: it is tracked as it is at first"
                self._note(shape.name, "changing_alpha", f"has a material {material.name!r} {words}")
        if not all(_is_nothing(one) for one in seen):
            return False
        self._note(shape.name, *_NO_SURFACE[seen[0].is_volume])
        return True

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
        for number in np.unique(index):
            self._tell(shape, materials[number], seen[number])
        gone = np.array([_is_nothing(one) for one in seen])
        kept = np.flatnonzero(~gone[index])
        cut, picture, uv = [], [], []
        for number, one in enumerate(seen):
            places = np.flatnonzero(index[kept] == number)
            if one.alpha.image is not None and len(places):
                found = self._picture(one.alpha), _uv_of(data, one.alpha)
                if found[0] is None or found[1] is None:
                    self._note(shape.name, "alpha", _solid(materials[number]))
                    continue
                cut.append(places)
                picture.append(np.full(len(places), found[0], np.int32))
                uv.append(found[1][kept[places]])
        if not cut and len(kept) == len(index):
            return None
        return Look(
            len(index),
            kept,
            np.concatenate([np.zeros(0, np.int64), *cut]),
            np.concatenate([np.zeros(0, np.int32), *picture]),
            np.concatenate([np.zeros((0, 3, 2), np.float32), *uv]),
        )

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
                if len(look.cut):
                    order = np.argsort(look.cut)
                    cut.append((look.cut[order] + first, look.uv[order], look.picture[order]))
            left.append(own)
            first += len(own)
        if not cut:
            return left, None
        places, uv, picture = (np.concatenate(part) for part in zip(*cut, strict=True))
        return left, CutOuts(places.astype(np.int32), uv, picture, tuple(self.pictures))

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, material) -> Seen:
        name = material.name_full if material is not None else ""
        if name not in self._seen:
            seen = self._seen[name] = read_material(material)
            if is_animated(material) and not seen.alpha.procedural:
                self._animated.add(name)
        return self._seen[name]

    def _tell(self, shape, material, seen: Seen) -> None:
        if seen.is_passed:
            self._note(shape.name, *_PASSED)
        elif _is_nothing(seen):
            code, words = _NO_SURFACE[seen.is_volume]
            self._note(shape.name, code, f"{words} where its material is {material.name!r}")
        elif seen.alpha.procedural:
            self._note(shape.name, "alpha", _solid(material))
        elif seen.is_glass:
            self._note(
                shape.name,
                "glass",
                f"lets light through its material {material.name!r}: its surface is tracked, not what is seen "
                "through it",
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


def _solid(material) -> str:
    return f"has a material {material.name!r} whose alpha is no image on a UV map: it is tracked as if it were solid"


def _is_nothing(seen: Seen) -> bool:
    alpha = seen.alpha
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


def _uv_of(data, alpha: Alpha) -> np.ndarray | None:
    """[M,3,2] f32 of the corners of all triangles, where the image is on them; None where the mesh has no such map."""
    layers = data.uv_layers
    layer = layers.get(alpha.uv_map) if alpha.uv_map else next((one for one in layers if one.active_render), None)
    if layer is None:
        return None
    corners = np.empty((len(data.loops), 2), np.float32)
    layer.uv.foreach_get("vector", corners.reshape(-1))
    (scale_u, offset_u), (scale_v, offset_v) = alpha.placement
    corners = corners * np.float32((scale_u, scale_v)) + np.float32((offset_u, offset_v))
    loops = np.empty(len(data.loop_triangles) * 3, np.int32)
    data.loop_triangles.foreach_get("loops", loops)
    return corners[loops].reshape(-1, 3, 2)


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
