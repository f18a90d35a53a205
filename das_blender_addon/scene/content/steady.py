# SPDX-License-Identifier: GPL-3.0-or-later
"""Which materials have an alpha that belongs to the surface: the same wherever the object and the camera go.

Such an alpha (noise, gradients, vertex colours, generated or object coordinates, mixtures of images) can be rendered
once and for all onto a sheet (`sheets`).  One that looks at the camera, the world, the time or the instance cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...compat import shader_nodes
from .shader import is_animated, source_of

ON_COORDINATES = frozenset(
    {"TEX_BRICK", "TEX_CHECKER", "TEX_GABOR", "TEX_GRADIENT", "TEX_MAGIC", "TEX_NOISE", "TEX_VORONOI", "TEX_WAVE"}
)
"""Textures that are at generated coordinates where nobody says where."""
_PURE = ON_COORDINATES | {
    "BLACKBODY", "BRIGHTCONTRAST", "CLAMP", "COMBHSV", "COMBINE_COLOR", "COMBRGB", "COMBXYZ", "CURVE_FLOAT",
    "CURVE_RGB", "CURVE_VEC", "GAMMA", "HUE_SAT", "INVERT", "MAPPING", "MAP_RANGE", "MATH", "MIX", "MIX_RGB", "RGB",
    "RGBTOBW", "SEPARATE_COLOR", "SEPHSV", "SEPRGB", "SEPXYZ", "TEX_WHITE_NOISE", "VALTORGB", "VALUE", "VECTOR_ROTATE",
    "VECT_MATH", "WAVELENGTH",
}  # fmt: skip
"""Nodes whose outputs follow from their inputs."""
_SURFACES = ("SUBSURFACE_SCATTERING", "EMISSION", "HOLDOUT", "EEVEE_SPECULAR")


@dataclass(frozen=True)
class Wanted:
    """What an alpha looks up on its mesh: ``names`` of attributes and UV maps, "" for the UV map that renders; whether
    it is at ``generated`` and at ``local`` coordinates of the object.
    """

    names: frozenset[str] = frozenset()
    generated: bool = False
    local: bool = False


def wanted_by(material) -> Wanted | None:
    """What the alpha of ``material`` looks up on a mesh; None where it does not belong to the surface, or may change
    over time.
    """
    tree = shader_nodes(material)
    output = tree.get_output_node("CYCLES") if tree is not None else None
    if output is None or is_animated(material):
        return None
    walk = _Walk()
    try:
        walk.surface(output.inputs["Surface"], ())
    except _Unsteady:
        return None
    return Wanted(frozenset(walk.names), walk.generated, walk.local)


class _Unsteady(Exception):
    """The alpha does not belong to the surface."""


class _Walk:
    """All nodes that decide an alpha, from the end to the beginnings."""

    def __init__(self):
        self.names: set[str] = set()
        self.generated = self.local = False
        self._known: set = set()

    def surface(self, socket, groups: tuple) -> None:
        """``socket`` takes a surface.  Raises `_Unsteady`."""
        source = source_of(socket, groups)
        if source is None:
            return
        node, output, groups = source
        kind = node.type if output is not None else ""
        self._in_groups(groups)
        if kind == "BSDF_PRINCIPLED":
            self.value(node.inputs["Alpha"], groups)
        elif kind == "BSDF_TRANSPARENT":
            self.value(node.inputs["Color"], groups)
        elif kind == "MIX_SHADER":
            self.value(node.inputs[0], groups)
            for each in node.inputs[1:3]:
                self.surface(each, groups)
        elif kind == "ADD_SHADER":
            for each in node.inputs[:2]:
                self.surface(each, groups)
        elif kind not in _SURFACES and not (kind.startswith("BSDF_") and kind != "BSDF_RAY_PORTAL"):
            raise _Unsteady

    def value(self, socket, groups: tuple) -> None:
        """``socket`` takes a number, a colour or a vector.  Raises `_Unsteady`."""
        source = source_of(socket, groups)
        if source is None or source[1] is None:
            return
        node, output, groups = source
        known = (node.as_pointer(), output.identifier, tuple(group.as_pointer() for group in groups))
        if known in self._known:
            return
        self._known.add(known)
        self._in_groups(groups)
        if node.type == "TEX_COORD":
            self._coordinates(node, output)
        elif node.type == "UVMAP" and not node.from_instancer:
            self.names.add(node.uv_map)
        elif node.type == "ATTRIBUTE" and node.attribute_type == "GEOMETRY" and node.attribute_name:
            self.names.add(node.attribute_name)
        elif node.type == "VERTEX_COLOR" and node.layer_name:
            self.names.add(node.layer_name)
        elif node.type == "TEX_IMAGE":
            self._image(node, groups)
        elif node.type in _PURE:
            if node.type in ON_COORDINATES and not node.inputs["Vector"].links:
                self.generated = True
            for each in node.inputs:
                self.value(each, groups)
        elif not (node.type == "LIGHT_PATH" and output.identifier.startswith("Is ")):  # all is what the camera sees
            raise _Unsteady

    def _coordinates(self, node, output) -> None:
        kind = output.identifier
        if node.from_instancer or kind not in ("Generated", "UV", "Object") or (kind == "Object" and node.object):
            raise _Unsteady
        if kind == "UV":
            self.names.add("")
        self.generated |= kind == "Generated"
        self.local |= kind == "Object"

    def _image(self, node, groups: tuple) -> None:
        if node.image is not None and node.image.source not in ("FILE", "GENERATED", "TILED"):
            raise _Unsteady
        if node.projection == "BOX":  # by the surface's normal
            raise _Unsteady
        if not node.inputs["Vector"].links:
            self.names.add("")
        self.value(node.inputs["Vector"], groups)

    def _in_groups(self, groups: tuple) -> None:
        for group in groups:
            if group.node_tree.original.animation_data is not None:
                raise _Unsteady
