# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair, points, cards that an image cuts out, and volumes, for tests."""

import bpy
import numpy as np

from tests.support.scenes import add_cube, add_grid, link


def add_hair_curves(scene, strands, points=5, radius=0.03, length=2.0, bend=0.5, seed=1):
    """Bent strands with thick roots and thin tips that grow from a square."""
    random = np.random.default_rng(seed)
    data = bpy.data.hair_curves.new("Hair")
    data.add_curves([points] * strands)
    along = np.linspace(0.0, 1.0, points)[None, :, None]
    roots = random.uniform(-1.5, 1.5, (strands, 1, 3)) * (1, 1, 0)
    ways = random.normal(0, 0.3, (strands, 1, 3)) + (0, 0, length)
    aside = random.normal(0, bend, (strands, 1, 3))
    places = roots + along * ways + along**2 * aside - (0, 0, 1)
    data.attributes["position"].data.foreach_set("vector", places.astype(np.float32).ravel())
    thick = data.attributes.new("radius", "FLOAT", "POINT")
    radii = np.broadcast_to(radius * (1.0 - 0.7 * along[..., 0]), (strands, points))
    thick.data.foreach_set("value", radii.astype(np.float32).ravel())
    return link(scene, "Hair", data)


def add_particle_hair(scene, name="Scalp"):
    scalp = add_grid(scene, name, cells=4)
    scalp.modifiers.new("Hair", "PARTICLE_SYSTEM")
    settings = scalp.particle_systems[0].settings
    settings.type, settings.count, settings.hair_length = "HAIR", 12, 1.5
    settings.root_radius, settings.tip_radius, settings.radius_scale = 1.0, 0.2, 0.08
    return scalp, settings


def add_points(scene, name="Points", cells=3, radius=0.12):
    """The vertices of a grid as points, by geometry nodes."""
    tree = bpy.data.node_groups.new("Points", "GeometryNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    points = tree.nodes.new("GeometryNodeMeshToPoints")
    points.inputs["Radius"].default_value = radius
    tree.links.new(start.outputs[0], points.inputs["Mesh"])
    tree.links.new(points.outputs[0], end.inputs[0])
    grid = add_grid(scene, name, cells=cells)
    grid.modifiers.new("Points", "NODES").node_group = tree
    return grid


def add_material(name, alpha=1.0):
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    material.node_tree.nodes["Principled BSDF"].inputs["Alpha"].default_value = alpha
    return material


def add_image(size=16, seed=3, smooth=True, colours="Non-Color", opaque=False):
    """Random alpha, and colours that say the opposite."""
    random = np.random.default_rng(seed)
    alpha = random.uniform(0.0, 1.0, (size, size)) if smooth else random.integers(0, 2, (size, size))
    image = bpy.data.images.new("Leaf", size, size, alpha=True)
    image.colorspace_settings.name = colours
    pixels = np.repeat(1.0 - alpha[..., None], 4, axis=2)
    pixels[..., 3] = 1.0 if opaque else alpha
    image.pixels.foreach_set(pixels.astype(np.float32).ravel())
    image.update()
    return image


def add_card(scene, name="Card", size=2.5, location=(0.0, 0.0, 0.0)):
    """A grid with a UV map "Cloth" that is not the grid's own and one "Other" beside it."""
    card = add_grid(scene, name, cells=3, size=size, location=location)
    for map_name, factor in (("Other", 0.1), ("Cloth", 0.4)):
        layer = card.data.uv_layers.new(name=map_name)
        for loop in card.data.loops:
            place = card.data.vertices[loop.vertex_index].co
            layer.uv[loop.index].vector = (place.x * factor + 0.2, place.y * factor - place.x * 0.1)
    card.data.uv_layers["Cloth"].active_render = True
    return card


def nodes_of(material):
    tree = material.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    return tree, texture, tree.nodes["Principled BSDF"], tree.nodes["Material Output"]


def by_alpha(tree, texture, principled, output):
    tree.links.new(texture.outputs["Alpha"], principled.inputs["Alpha"])


def harden(material) -> None:
    """Where alpha is a half or more there is a surface, else none: for Cycles, to which it is a matter of chance."""
    tree = material.node_tree
    last = ("TEX_IMAGE", "TEX_NOISE", "SEPARATE_COLOR", "INVERT")
    ends = ("BSDF_PRINCIPLED", "GROUP")
    for wire in [one for one in tree.links if one.from_node.type in last and one.to_node.type in ends]:
        compare, target = tree.nodes.new("ShaderNodeMath"), wire.to_socket
        compare.operation, compare.inputs[1].default_value = "GREATER_THAN", 0.5
        tree.links.new(wire.from_socket, compare.inputs[0])
        tree.links.new(compare.outputs[0], target)


def add_cut_out(scene, size=2.5):
    """A card with holes by the alpha of an image."""
    card, material = add_card(scene, size=size), add_material("Leaf")
    tree, texture, principled, output = nodes_of(material)
    texture.image = add_image()
    by_alpha(tree, texture, principled, output)
    card.data.materials.append(material)
    return card


def add_volume(scene, size=1.5, location=(0.0, 0.0, 0.0)):
    """A cube that only holds a volume."""
    fog = add_material("Fog")
    tree = fog.node_tree
    tree.nodes.remove(tree.nodes["Principled BSDF"])
    tree.links.new(tree.nodes.new("ShaderNodeVolumePrincipled").outputs[0], tree.nodes["Material Output"].inputs[1])
    cloud = add_cube(scene, "Cloud", size=size, location=location)
    cloud.data.materials.append(fog)
    return cloud
