# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural materials of the demo scene, built node by node."""

from __future__ import annotations

import bpy


def use_nodes(owner) -> None:
    """Blender 5 always does, and warns when it is asked."""
    if owner.node_tree is None:
        owner.use_nodes = True


def grey_output(node):
    """The grey output of a texture node: "Fac" before Blender 5.0, "Factor" in some nodes since."""
    return next(node.outputs[name] for name in ("Fac", "Factor") if name in node.outputs)


class MaterialNodes:
    """A material that is being built: textures in, one colour out."""

    def __init__(self, name: str):
        self.material = bpy.data.materials.new(name)
        use_nodes(self.material)
        self.tree = self.material.node_tree

    def add(self, kind: str, **inputs):
        """A node with input values by name."""
        node = self.tree.nodes.new(kind)
        for name, value in inputs.items():
            is_colour = node.inputs[name].type == "RGBA"
            node.inputs[name].default_value = (*value, 1.0) if is_colour else value
        return node

    def link(self, output, node, name: str) -> None:
        self.tree.links.new(output, node.inputs[name])

    def coordinates(self, name: str):
        """Texture coordinates; "Generated" and "Object" ones stay on a deforming surface."""
        return self.tree.nodes.new("ShaderNodeTexCoord").outputs[name]

    def colour(self, colour):
        node = self.tree.nodes.new("ShaderNodeRGB")
        node.outputs[0].default_value = (*colour, 1.0)
        return node.outputs[0]

    def ramp(self, factor, stops, *, interpolation: str = "LINEAR"):
        """Grey → colour by (position, colour) stops."""
        node = self.tree.nodes.new("ShaderNodeValToRGB")
        node.color_ramp.interpolation = interpolation
        elements = node.color_ramp.elements
        while len(elements) > 1:
            elements.remove(elements[-1])
        elements[0].position, elements[0].color = stops[0][0], (*stops[0][1], 1.0)
        for position, colour in stops[1:]:
            elements.new(position).color = (*colour, 1.0)
        self.link(factor, node, "Fac")
        return node.outputs["Color"]

    def shade(self, colour, factor, low: float, high: float):
        """``colour`` times a grey between ``low`` and ``high``."""
        grey = self.ramp(factor, [(0.3, (low,) * 3), (0.7, (high,) * 3)])
        node = self.tree.nodes.new("ShaderNodeVectorMath")
        node.operation = "MULTIPLY"
        self.tree.links.new(colour, node.inputs[0])
        self.tree.links.new(grey, node.inputs[1])
        return node.outputs["Vector"]

    def finish(self, colour, *, roughness: float = 0.7, matt: bool = False):
        """The material with ``colour``; ``matt`` is cheaper to render."""
        if matt:
            surface = self.tree.nodes.new("ShaderNodeBsdfDiffuse")
            self.link(colour, surface, "Color")
            output = next(node for node in self.tree.nodes if node.type == "OUTPUT_MATERIAL")
            self.link(surface.outputs["BSDF"], output, "Surface")
            return self.material
        surface = next(node for node in self.tree.nodes if node.type == "BSDF_PRINCIPLED")
        self.link(colour, surface, "Base Color")
        surface.inputs["Roughness"].default_value = roughness
        surface.inputs["Specular IOR Level"].default_value = 0.15
        return self.material
