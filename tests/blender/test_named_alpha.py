# SPDX-License-Identifier: GPL-3.0-or-later
"""Alpha that is tracked otherwise than it renders is named: what does not belong to the surface, has no room, or moves
over the shot.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon.scene.content import sheets
from tests.blender.test_rendered_alpha import exported, new_node, noise
from tests.support.content import add_card, add_image, add_material
from tests.support.scenes import add_camera, add_grid, key, link

pytestmark = pytest.mark.any_blender


@pytest.fixture
def stage(blank_scene):
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = 240, 180
    add_camera(scene, location=(1.5, -3.0, 4.0))
    return scene


def at_places_in_the_world(tree):
    texture = new_node(tree, "TexNoise")
    tree.links.new(new_node(tree, "NewGeometry").outputs["Position"], texture.inputs["Vector"])
    return texture.outputs[0]


def at_another_object(tree):
    place, texture = new_node(tree, "TexCoord", object=bpy.context.scene.camera), new_node(tree, "TexNoise")
    tree.links.new(place.outputs["Object"], texture.inputs["Vector"])
    return texture.outputs[0]


def by_the_camera(tree):
    return new_node(tree, "LayerWeight").outputs["Facing"]


def by_the_instance(tree):
    return new_node(tree, "ObjectInfo").outputs["Random"]


def by_depth_of_rays(tree):
    return new_node(tree, "LightPath").outputs["Transparent Depth"]


def by_an_attribute_that_is_not_there(tree):
    return new_node(tree, "Attribute", attribute_name="Nothing").outputs["Fac"]


def moving(tree):
    texture = new_node(tree, "TexNoise", noise_dimensions="4D")
    key(texture.inputs["W"], "default_value", {1: 0.0, 9: 3.0})
    return texture.outputs[0]


def in_a_group_that_moves(tree):
    group = bpy.data.node_groups.new("Moving", "ShaderNodeTree")
    group.interface.new_socket("Value", in_out="OUTPUT", socket_type="NodeSocketFloat")
    group.links.new(moving(group), group.nodes.new("NodeGroupOutput").inputs[0])
    return new_node(tree, "Group", node_tree=group).outputs[0]


UNSTEADY = [
    at_places_in_the_world, at_another_object, by_the_camera, by_the_instance, by_depth_of_rays,
    by_an_attribute_that_is_not_there, moving, in_a_group_that_moves,
]  # fmt: skip


@pytest.mark.parametrize("how", UNSTEADY, ids=lambda how: how.__name__)
def test_alpha_that_does_not_belong_to_the_surface_is_solid_and_named(stage, how):
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    tree = material.node_tree
    tree.links.new(how(tree), tree.nodes["Principled BSDF"].inputs["Alpha"])
    geometry = exported(stage)
    assert geometry.cut is None and len(geometry.triangles) == 18
    assert [note.sentence for note in geometry.notes] == [SOLID]


SOLID = "'Card' has a material 'Lace' whose alpha cannot be made an image: it is tracked as if it were solid."


def test_alpha_that_could_not_be_rendered_is_named(stage):
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    noise(card, material)
    for by in (None, lambda _: None):
        geometry = exported(stage, sheets=by)
        assert geometry.cut is None and [note.sentence for note in geometry.notes] == [SOLID]


def test_surface_that_moves_through_alpha_in_its_object_is_named(stage):
    """Generated coordinates go with a surface that is bent; the object's do not."""
    for name, output in (("Stays", "Generated"), ("Slides", "Object")):
        material, card = add_material(name), add_card(stage, name)
        card.data.materials.append(material)
        tree, texture = material.node_tree, new_node(material.node_tree, "TexNoise")
        tree.links.new(new_node(tree, "TexCoord").outputs[output], texture.inputs["Vector"])
        tree.links.new(texture.outputs[0], tree.nodes["Principled BSDF"].inputs["Alpha"])
        card.modifiers.new("Wave", "WAVE")
    geometry = exported(stage, (1, 5))
    words = "whose alpha changes over time: it is tracked as it is at first."
    assert [note.sentence for note in geometry.notes] == [f"'Slides' has a material 'Slides' {words}"]
    assert len(geometry.cut.triangles) == 36


def test_only_alpha_that_has_no_room_is_solid_and_named(stage, monkeypatch):
    few, many = add_card(stage, "Few"), add_grid(stage, "Many", cells=40, location=(0.5, 0.5, 1.0))
    for card in (few, many):
        material = add_material(f"Lace of {card.name}")
        card.data.materials.append(material)
        texture = new_node(material.node_tree, "TexNoise")
        material.node_tree.links.new(texture.outputs[0], material.node_tree.nodes["Principled BSDF"].inputs["Alpha"])
    monkeypatch.setattr(sheets, "MOST_TEXELS", 20_000)
    geometry = exported(stage)
    (told,) = geometry.notes
    assert told.name == "Many" and told.code == "alpha" and "'Lace of Many' whose alpha is on more tri" in told.words
    cut = np.unique(geometry.objects[geometry.cut.triangles])
    assert [geometry.names[number] for number in cut] == ["Few"] and len(geometry.cut.triangles) == 18


def stored_over_time(card, name, kind="FLOAT", moves=True):
    """An attribute that geometry nodes make anew in every frame."""
    group = bpy.data.node_groups.new("Store", "GeometryNodeTree")
    for way in ("INPUT", "OUTPUT"):
        group.interface.new_socket("Geometry", in_out=way, socket_type="NodeSocketGeometry")
    start, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    store, value = group.nodes.new("GeometryNodeStoreNamedAttribute"), group.nodes.new("ShaderNodeValue")
    store.data_type = kind
    store.inputs["Name"].default_value = name
    if moves:
        key(value.outputs[0], "default_value", {1: 0.2, 9: 0.9})
    group.links.new(start.outputs[0], store.inputs["Geometry"])
    group.links.new(value.outputs[0], next(one for one in store.inputs if one.name == "Value" and one.enabled))
    group.links.new(store.outputs[0], end.inputs[0])
    card.modifiers.new(name, "NODES").node_group = group


def by_attribute(material, name):
    tree = material.node_tree
    attribute, wave = new_node(tree, "Attribute", attribute_name=name), new_node(tree, "TexNoise")
    added = new_node(tree, "Math", operation="ADD")
    tree.links.new(attribute.outputs["Fac"], added.inputs[0])
    tree.links.new(wave.outputs[0], added.inputs[1])
    tree.links.new(added.outputs[0], tree.nodes["Principled BSDF"].inputs["Alpha"])


def test_attributes_that_move_and_drive_alpha_are_named(stage):
    """Of two cards with one material each, and one more material that looks nothing up."""
    for name, moves in (("Moves", True), ("Rests", False)):
        card, still = add_card(stage, name), add_material(f"Still {name}")
        material = add_material(f"Lace {name}")
        stored_over_time(card, "fade", moves=moves)
        by_attribute(material, "fade")
        texture = new_node(still.node_tree, "TexNoise")
        still.node_tree.links.new(texture.outputs[0], still.node_tree.nodes["Principled BSDF"].inputs["Alpha"])
        card.data.materials.append(material)
        card.data.materials.append(still)
        card.data.polygons[4].material_index = 1
    geometry = exported(stage, (1, 2, 5))
    words = "whose alpha follows 'fade', which changes over time: it is tracked as it is at first."
    assert [note.sentence for note in geometry.notes] == [f"'Moves' has a material 'Lace Moves' {words}"]
    assert len(geometry.cut.triangles) == 36


def test_image_that_moves_over_a_surface_is_named(stage):
    """By a modifier; a twin shares the mesh and the material, and has none."""
    material, card = add_material("Leaf"), add_card(stage)
    tree = material.node_tree
    texture = new_node(tree, "TexImage", image=add_image())
    tree.links.new(texture.outputs["Alpha"], tree.nodes["Principled BSDF"].inputs["Alpha"])
    card.data.materials.append(material)
    link(stage, "Twin", card.data).location = (0.0, 0.0, -1.0)
    warp = card.modifiers.new("Warp", "UV_WARP")
    warp.uv_layer = "Cloth"
    warp.show_render = True
    geometry = exported(stage, (1, 5))
    assert geometry.notes == ()
    key(warp, "offset", {1: (0.0, 0.0), 9: (0.3, 0.1)})
    geometry = exported(stage, (1, 5))
    words = "whose alpha changes over time: it is tracked as it is at first."
    assert [note.sentence for note in geometry.notes] == [f"'Card' has a material 'Leaf' {words}"]


def test_nothing_is_rendered_where_no_alpha_needs_it(stage):
    def never(sheets):
        raise AssertionError

    card, material = add_card(stage), add_material("Lace")
    texture = new_node(material.node_tree, "TexImage", image=add_image())
    tree = material.node_tree
    tree.links.new(texture.outputs["Alpha"], tree.nodes["Principled BSDF"].inputs["Alpha"])
    card.data.materials.append(material)
    assert len(exported(stage, sheets=never).cut.triangles) == 18
