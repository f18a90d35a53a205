# SPDX-License-Identifier: GPL-3.0-or-later
"""What a material lets through: read off its nodes, without rendering anything.

Exact are a number, and an image on a UV map, each also mixed with transparency, inverted, scaled or compared with a
number.  What else decides the alpha is not known here: `Alpha.procedural`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...compat import shader_nodes

HALF = 0.5
"""Alpha from which on there is a surface."""
_GLASS = ("BSDF_GLASS", "BSDF_REFRACTION")


@dataclass(frozen=True)
class Alpha:
    """``gain`` · level + ``bias``, where level is 0 without an image; there is a surface where it is a half or more.

    ``image``: the image texture node; ``image_name``: of its image; ``channel``: 0 to 3 of RGBA, or None for the
    colour's luminance.  ``uv_map``: its name, "" for the active one; ``placement``: ((scale, offset) of u, (scale,
    offset) of v), what a mapping does.
    ``procedural``: it is something else.
    """

    bias: float = 1.0
    gain: float = 0.0
    image: object = field(default=None, compare=False)
    image_name: str = ""
    channel: int | None = 3
    uv_map: str = ""
    placement: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (1.0, 0.0))
    procedural: bool = False

    def scaled(self, gain: float, bias: float) -> Alpha:
        """``gain`` times it, and ``bias``."""
        return replace(self, gain=self.gain * gain, bias=self.bias * gain + bias)


PROCEDURAL = Alpha(procedural=True)


@dataclass(frozen=True)
class Seen:
    """What a camera sees of a material.  ``is_volume``: it has a volume and no surface.  ``is_glass``: what is behind
    it is seen through it; ``is_passed``: that is what counts.  ``held_out``: the share, 0 to 1, of what is behind it
    that a holdout swallows.  ``backs``: what the alpha cuts out is held out, too: nothing is seen through it.
    """

    alpha: Alpha
    is_volume: bool = False
    is_glass: bool = False
    is_passed: bool = False
    held_out: float = 0.0
    backs: bool = False

    @property
    def is_tight(self) -> bool:
        """Whether nothing is seen through it anywhere."""
        return self.backs or (_is_constant(self.alpha) and self.alpha.bias + self.held_out >= 1.0)

    @property
    def is_hole(self) -> bool:
        """Whether a hole is there: less than half is a surface, and of the rest most is held out."""
        gone = 1.0 - self.alpha.bias
        return self.held_out > 0.0 and _is_constant(self.alpha) and gone > HALF and self.held_out >= 0.5 * gone


def read_material(material) -> Seen:
    """What the render sees of ``material``, None for no material at all."""
    tree = shader_nodes(material)
    if tree is None:
        return Seen(Alpha())
    output = tree.get_output_node("CYCLES") or tree.get_output_node("EEVEE")
    if output is None:
        return Seen(Alpha())
    surface = source_of(output.inputs["Surface"], ())
    if surface is None:
        return Seen(Alpha(), is_volume=source_of(output.inputs["Volume"], ()) is not None)
    seen = _shader(surface)
    if getattr(surface[0], "type", "") == "HOLDOUT":
        return seen  # nothing changes that
    if _is_constant(seen.alpha) and seen.alpha.bias < 1.0 and is_animated(material):
        return replace(seen, alpha=PROCEDURAL)  # a mesh that fades in is there in some frames
    return seen


def is_displaced(material) -> bool:
    """Whether a render moves the surface of what has the ``material``, None for no material at all."""
    tree = shader_nodes(material)
    if tree is None or material.displacement_method == "BUMP":
        return False
    output = tree.get_output_node("CYCLES") or tree.get_output_node("EEVEE")
    return output is not None and source_of(output.inputs["Displacement"], ()) is not None


def is_animated(material) -> bool:
    """Whether the nodes of ``material`` may change over time."""
    tree = shader_nodes(material.original) if material is not None else None
    animation = tree.animation_data if tree is not None else None
    return animation is not None and (animation.action is not None or len(animation.drivers) > 0)


# ── Nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def source_of(socket, groups: tuple):
    """(node, its output, the groups that it is in) that ``socket`` gets its value from; None where it is its own."""
    links = [link for link in socket.links if not link.is_muted and link.is_valid]
    if not links:
        return None
    node, output = links[0].from_node, links[0].from_socket
    if node.type == "REROUTE":
        return source_of(node.inputs[0], groups)
    if node.mute:
        inner = next((link for link in node.internal_links if link.to_socket == output), None)
        return source_of(inner.from_socket, groups) if inner is not None else None
    if node.type == "GROUP" and node.node_tree is not None:
        ends = [end for end in node.node_tree.nodes if end.type == "GROUP_OUTPUT" and end.is_active_output]
        if ends:
            found = next((one for one in ends[0].inputs if one.identifier == output.identifier), None)
            return source_of(found, (*groups, node)) if found is not None else None
    if node.type == "GROUP_INPUT" and groups:
        found = next((one for one in groups[-1].inputs if one.identifier == output.identifier), None)
        inside = source_of(found, groups[:-1]) if found is not None else None
        return inside if inside is not None else (found, None, groups[:-1])
    return node, output, groups


def _shader(source) -> Seen:
    node, _, groups = source
    kind = getattr(node, "type", "")
    if kind == "BSDF_PRINCIPLED":
        transmission = node.inputs["Transmission Weight"]
        is_glass = bool(transmission.links) or transmission.default_value > 0.0
        return Seen(_value(node.inputs["Alpha"], groups), is_glass=is_glass)
    if kind in ("BSDF_TRANSPARENT", "HOLDOUT"):
        return Seen(Alpha(bias=0.0), held_out=float(kind == "HOLDOUT"))
    if kind in _GLASS:
        return Seen(Alpha(), is_glass=True)
    if kind == "MIX_SHADER":
        first, second = (_shader_of(socket, groups) for socket in node.inputs[1:3])
        share = _value(node.inputs[0], groups)
        alpha = _mixed(share, first.alpha, second.alpha)
        return Seen(
            alpha,
            is_glass=first.is_glass or second.is_glass,
            held_out=_mixed_number(share, first.held_out, second.held_out),
            backs=not _is_constant(alpha) and first.is_tight and second.is_tight,
        )
    if kind == "ADD_SHADER":
        parts = [_shader_of(socket, groups) for socket in node.inputs[:2]]
        if sum(part.held_out for part in parts) >= 1.0:
            return Seen(Alpha(bias=0.0), held_out=1.0)  # nothing is left for the other one to show
        solid = [part for part in parts if not _is_constant(part.alpha) or part.alpha.bias > 0.0]
        return solid[0] if len(solid) == 1 else Seen(parts[0].alpha if not solid else Alpha())
    return Seen(Alpha())


def _shader_of(socket, groups) -> Seen:
    source = source_of(socket, groups)
    return Seen(Alpha()) if source is None else _shader(source)


def _is_constant(alpha: Alpha) -> bool:
    return alpha.image is None and not alpha.procedural


def _mixed(share: Alpha, first: Alpha, second: Alpha) -> Alpha:
    if first == second:
        return first
    if _is_constant(first) and _is_constant(second):
        return share if share.procedural else share.scaled(second.bias - first.bias, first.bias)
    if _is_constant(share) and share.bias in (0.0, 1.0):
        return second if share.bias else first
    return PROCEDURAL


def _mixed_number(share: Alpha, first: float, second: float) -> float:
    """``first`` and ``second`` mixed; 0 where nobody knows how."""
    if first == second:
        return first
    part = min(max(share.bias, 0.0), 1.0)
    return (1.0 - part) * first + part * second if _is_constant(share) else 0.0


def _value(socket, groups) -> Alpha:
    """The number that ``socket`` has, as far as it is known."""
    source = source_of(socket, groups)
    if source is None:
        return Alpha(bias=float(socket.default_value))
    node, output, groups = source
    if output is None:  # the value of a group's own socket
        value = node.default_value
        return Alpha(bias=float(value)) if isinstance(value, int | float) else PROCEDURAL
    if node.type == "VALUE":
        return Alpha(bias=float(output.default_value))
    if node.type == "TEX_IMAGE":
        return _image(node, 3 if output.identifier == "Alpha" else None, groups)
    if node.type in ("SEPARATE_COLOR", "SEPRGB"):
        inner = source_of(node.inputs[0], groups)
        if inner is not None and getattr(inner[0], "type", "") == "TEX_IMAGE" and inner[1].identifier == "Color":
            if getattr(node, "mode", "RGB") == "RGB":
                return _image(inner[0], list(node.outputs).index(output), inner[2])
    if node.type == "MATH":
        return _math(node, groups)
    if node.type == "INVERT" and _value(node.inputs["Fac"], groups) == Alpha(bias=1.0):
        return _value_of_colour(node.inputs["Color"], groups).scaled(-1.0, 1.0)
    return PROCEDURAL


def _value_of_colour(socket, groups) -> Alpha:
    return _value(socket, groups) if socket.links else PROCEDURAL


def _math(node, groups) -> Alpha:
    first, second = (_value(socket, groups) for socket in node.inputs[:2])
    if first.procedural or (second.procedural and node.operation != "ROUND"):
        return PROCEDURAL
    if node.operation == "ROUND":
        return first  # compared with a half in any case
    if _is_constant(first) and not _is_constant(second):
        number = first.bias
        table = {
            "ADD": (1.0, number),
            "MULTIPLY": (number, 0.0),
            "SUBTRACT": (-1.0, number),
            "GREATER_THAN": (-1.0, number + HALF),
            "LESS_THAN": (1.0, HALF - number),
        }
        return second.scaled(*table[node.operation]) if node.operation in table else PROCEDURAL
    if _is_constant(second):
        number = second.bias
        table = {
            "ADD": (1.0, number),
            "MULTIPLY": (number, 0.0),
            "SUBTRACT": (1.0, -number),
            "GREATER_THAN": (1.0, HALF - number),
            "LESS_THAN": (-1.0, number + HALF),
        }
        if number:
            table["DIVIDE"] = (1.0 / number, 0.0)
        return first.scaled(*table[node.operation]) if node.operation in table else PROCEDURAL
    return PROCEDURAL


def _image(node, channel: int | None, groups) -> Alpha:
    image = node.image
    if image is None or image.source not in ("FILE", "GENERATED") or node.projection != "FLAT":
        return PROCEDURAL
    if channel == 3 and image.alpha_mode == "NONE":
        return Alpha()
    place = _place(node.inputs["Vector"], groups)
    if place is None:
        return PROCEDURAL
    uv_map, placement = place
    return Alpha(0.0, 1.0, node, image.name_full, channel, uv_map, placement)


def _place(socket, groups):
    """(name of the UV map, placement) that an image is at; None where it is at no UV map."""
    source = source_of(socket, groups)
    if source is None:
        return "", ((1.0, 0.0), (1.0, 0.0))
    node, output, groups = source
    if output is None:
        return None
    if node.type == "UVMAP" and not node.from_instancer:
        return node.uv_map, ((1.0, 0.0), (1.0, 0.0))
    if node.type == "TEX_COORD" and output.identifier == "UV" and not node.from_instancer:
        return "", ((1.0, 0.0), (1.0, 0.0))
    if node.type == "MAPPING" and node.vector_type in ("POINT", "TEXTURE"):
        inner = _place(node.inputs["Vector"], groups)
        if inner is None or any(socket.links for socket in node.inputs[1:]):
            return None
        offset, turn, scale = (tuple(socket.default_value) for socket in node.inputs[1:4])
        if any(turn) or (node.vector_type == "TEXTURE" and not all(scale[:2])):
            return None
        axes = []
        for (own_scale, own_offset), by, move in zip(inner[1], scale, offset, strict=False):
            if node.vector_type == "POINT":
                axes.append((own_scale * by, own_offset * by + move))
            else:
                axes.append((own_scale / by, (own_offset - move) / by))
        return inner[0], tuple(axes)
    return None
