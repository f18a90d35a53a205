# SPDX-License-Identifier: GPL-3.0-or-later
"""Alpha that is no image on a UV map cuts surfaces out as Cycles does, where it belongs to the surface; else it is
named.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.scene.content.sheet_render import render_sheets
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.take import drive
from das_blender_addon.tracking.video import render_tracking_video
from tests.blender.test_content import agreement, in_cycles
from tests.support.content import add_card, add_image, add_material
from tests.support.scenes import add_camera, key, link

SIZE, SMALL, LARGE = (160, 120), (48, 36), (240, 180)
CUT_OUTS = 0.998
"""Least share of the pixels that either covers, that both cover."""


@pytest.fixture
def stage(blank_scene):
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    add_camera(scene, location=(1.5, -3.0, 4.0))
    return scene


def exported(scene, frames=(1,), size=SIZE, sheets=render_sheets):
    export = GeometryExport(*size)
    walk_in_render(scene, scene.view_layers[0].name, list(frames), export.add)
    return export.finish(sheets)


def harden(owner) -> None:
    """Where the alpha of a material, or in a group, is a half or more there is a surface, else none: for Cycles, to
    which it is a matter of chance.
    """
    tree = getattr(owner, "node_tree", owner)
    for node in list(tree.nodes):
        socket = {"BSDF_PRINCIPLED": "Alpha", "MIX_SHADER": "Fac"}.get(node.type)
        if socket is not None and node.inputs[socket].links:
            compare = tree.nodes.new("ShaderNodeMath")
            compare.operation, compare.inputs[1].default_value = "GREATER_THAN", 0.5
            tree.links.new(node.inputs[socket].links[0].from_socket, compare.inputs[0])
            tree.links.new(compare.outputs[0], node.inputs[socket])


def new_node(tree, kind: str, **settings):
    node = tree.nodes.new(f"ShaderNode{kind}")
    for name, value in settings.items():
        setattr(node, name, value)
    return node


def noise(card, material):
    """Generated coordinates, which nobody says, of a mesh that modifiers have bent."""
    tree, alpha = material.node_tree, material.node_tree.nodes["Principled BSDF"].inputs["Alpha"]
    texture = new_node(tree, "TexNoise")
    texture.inputs["Scale"].default_value = 3.0
    tree.links.new(texture.outputs[0], alpha)
    card.modifiers.new("Fine", "SUBSURF").render_levels = 2
    wave = card.modifiers.new("Wave", "WAVE")
    wave.height, wave.width, wave.narrowness = 0.6, 1.0, 2.0


def checker_of_object(card, material):
    """Hard edges in the object's space, which is turned and scaled, mixed with transparency inside a group."""
    group = bpy.data.node_groups.new("Cut", "ShaderNodeTree")
    group.interface.new_socket("Surface", in_out="OUTPUT", socket_type="NodeSocketShader")
    end, mix = group.nodes.new("NodeGroupOutput"), new_node(group, "MixShader")
    checker, place = new_node(group, "TexChecker"), new_node(group, "TexCoord")
    checker.inputs["Scale"].default_value = 1.7
    checker.inputs["Color1"].default_value, checker.inputs["Color2"].default_value = (1, 1, 1, 1), (0, 0, 0, 1)
    group.links.new(place.outputs["Object"], checker.inputs["Vector"])
    group.links.new(checker.outputs["Color"], mix.inputs[0])
    group.links.new(new_node(group, "BsdfTransparent").outputs[0], mix.inputs[1])
    group.links.new(new_node(group, "BsdfDiffuse").outputs[0], mix.inputs[2])
    group.links.new(mix.outputs[0], end.inputs[0])
    tree = material.node_tree
    node = new_node(tree, "Group", node_tree=group)
    tree.links.new(node.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    card.rotation_euler, card.scale = (0.3, 0.2, 0.7), (1.3, 0.8, 1.0)


def vertex_colours(card, material):
    """A gradient of bytes that corners have, through a ramp."""
    layer = card.data.color_attributes.new("Lace", "BYTE_COLOR", "CORNER")
    random = np.random.default_rng(7)
    for corner in layer.data:
        corner.color = (*random.uniform(0.0, 1.0, 3), 1.0)
    tree = material.node_tree
    attribute, ramp = new_node(tree, "VertexColor", layer_name="Lace"), new_node(tree, "ValToRGB")
    ramp.color_ramp.elements[0].position = 0.2
    tree.links.new(attribute.outputs["Color"], ramp.inputs[0])
    tree.links.new(ramp.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Alpha"])


def two_images(card, material):
    """One on a UV map, one on generated coordinates, multiplied."""
    tree = material.node_tree
    first, second = (new_node(tree, "TexImage", image=add_image(seed=seed)) for seed in (3, 4))
    tree.links.new(new_node(tree, "UVMap", uv_map="Other").outputs[0], first.inputs[0])
    tree.links.new(new_node(tree, "TexCoord").outputs["Generated"], second.inputs[0])
    product = new_node(tree, "Math", operation="MULTIPLY_ADD")
    product.inputs[2].default_value = 0.25
    for texture, socket in zip((first, second), product.inputs, strict=False):
        tree.links.new(texture.outputs["Alpha"], socket)
    tree.links.new(product.outputs[0], tree.nodes["Principled BSDF"].inputs["Alpha"])


def seen_by_the_camera(card, material):
    """A tiny light path: what the camera sees counts.  Two surfaces of different alpha are mixed by a gradient."""
    tree = material.node_tree
    solid = tree.nodes["Principled BSDF"]
    gradient, mix = new_node(tree, "TexGradient", gradient_type="RADIAL"), new_node(tree, "MixShader")
    wave, path, product = new_node(tree, "TexWave"), new_node(tree, "LightPath"), new_node(tree, "Math")
    product.operation = "MULTIPLY"
    wave.inputs["Scale"].default_value = 1.3
    tree.links.new(new_node(tree, "TexCoord").outputs["Object"], gradient.inputs[0])
    tree.links.new(wave.outputs["Fac"], product.inputs[0])
    tree.links.new(path.outputs["Is Camera Ray"], product.inputs[1])
    tree.links.new(product.outputs[0], solid.inputs["Alpha"])
    compare = new_node(tree, "Math", operation="GREATER_THAN")
    tree.links.new(gradient.outputs["Fac"], compare.inputs[0])
    tree.links.new(compare.outputs[0], mix.inputs[0])
    tree.links.new(solid.outputs[0], mix.inputs[1])
    tree.links.new(new_node(tree, "Emission").outputs[0], mix.inputs[2])
    tree.links.new(mix.outputs[0], tree.nodes["Material Output"].inputs["Surface"])


WAYS = [
    pytest.param(how, id=how.__name__, marks=[] if how is vertex_colours else [pytest.mark.any_blender])
    for how in (noise, checker_of_object, vertex_colours, two_images, seen_by_the_camera)
]


@pytest.mark.parametrize("how", WAYS)
def test_alpha_that_is_no_image_cuts_a_surface_out_as_in_cycles(stage, tmp_path, how):
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    how(card, material)
    kinds = ("scenes", "objects", "cameras", "materials", "meshes", "node_groups", "images")
    before = {kind: list(getattr(bpy.data, kind)) for kind in kinds}
    geometry = exported(stage)
    assert geometry.notes == ()
    assert {kind: list(getattr(bpy.data, kind)) for kind in before} == before, "nothing of it is left"
    video = render_tracking_video(geometry)
    solid = render_tracking_video(exported(stage, sheets=None)).coverage[0]
    harden(material)
    truth = in_cycles(stage, tmp_path) > 127
    assert 0.05 < video.coverage[0].mean() and agreement(solid, truth) < 0.95
    assert agreement(video.coverage[0], truth) >= CUT_OUTS


@pytest.mark.any_blender
def test_turning_camera_and_several_objects_see_their_own_holes(stage, tmp_path):
    """Two cards, one of two materials, and two instances of a third; one render for all of them."""
    calls = []
    stage.render.resolution_x, stage.render.resolution_y = LARGE

    def counted(sheets):
        calls.append(len(sheets))
        return render_sheets(sheets)

    lace, checked, solid = add_material("Lace"), add_material("Checked"), add_material("Solid")
    first, second = add_card(stage, "First", size=2.0), add_card(stage, "Second", size=1.5, location=(0.4, 0.5, 0.8))
    noise(first, lace)
    checker_of_object(second, checked)
    for card, materials in ((first, (lace, solid)), (second, (checked,))):
        for material in materials:
            card.data.materials.append(material)
    first.data.polygons[4].material_index = 1
    parts = bpy.data.collections.new("Parts")
    leaf = add_card(stage, "Leaf", size=0.8)
    stage.collection.objects.unlink(leaf)
    leaf.data.materials.append(lace)
    parts.objects.link(leaf)
    for number in (-1, 1):
        empty = link(stage, f"Group {number}")
        empty.instance_type, empty.instance_collection = "COLLECTION", parts
        empty.location, empty.scale = (1.2 * number, -0.6, 0.6), (1.0, 0.6, 1.0)
    key(stage.camera, "location", {1: (1.5, -3.0, 4.0), 5: (0.6, -1.5, 3.0)})
    geometry = exported(stage, (1, 5), LARGE, counted)
    assert geometry.notes == () and calls == [4]
    video = render_tracking_video(geometry)
    for material in (lace, checked):
        harden(material)
    harden(bpy.data.node_groups["Cut"])
    for index, frame in enumerate((1, 5)):
        stage.frame_set(frame)
        assert agreement(video.coverage[index], in_cycles(stage, tmp_path) > 127) >= CUT_OUTS


@pytest.mark.any_blender
def test_child_and_what_is_inside_of_a_render_see_the_same(stage):
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    vertex_colours(card, material)
    layer, found = stage.view_layers[0].name, []

    def export(**how):
        source = source_of(stage, layer, **how)
        try:
            found.append(drive.finish(source.export((1,), SMALL, lambda *_: None)).cut.arrays())
        finally:
            source.close()

    export(in_child=True)
    export(in_child=False)
    walk_in_render(stage, layer, [1], lambda _, depsgraph: export(in_child=False, step=lambda _: depsgraph))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, values in other.items():
            np.testing.assert_array_equal(values, found[0][name])


@pytest.mark.any_blender
def test_render_can_be_cancelled_while_a_child_renders_alpha(stage):
    """Inside of a render, as `blender -b -a` is one: everything is exported when it is."""
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    vertex_colours(card, material)
    layer, exported_all = stage.view_layers[0].name, []

    def export(_, depsgraph):
        def step(frame):
            if frame is None:
                exported_all.append(True)
            return depsgraph

        source = source_of(stage, layer, step, in_child=False)
        try:
            assert drive.finish(source.export((1,), SMALL, lambda *_: None)).cut is not None
            exported_all.clear()
            with pytest.raises(JobCancelled):
                drive.finish(source.export((1,), SMALL, lambda *_: None), should_stop=lambda: bool(exported_all))
        finally:
            source.close()

    walk_in_render(stage, layer, [1], export)


@pytest.mark.any_blender
def test_alpha_can_be_cancelled_before_its_picture(stage):
    material, card = add_material("Lace"), add_card(stage)
    card.data.materials.append(material)
    vertex_colours(card, material)
    before = len(bpy.data.scenes), len(bpy.data.meshes)

    def stop():
        raise JobCancelled("Enough.")

    with pytest.raises(JobCancelled, match="Enough"):
        exported(stage, sheets=lambda sheets: render_sheets(sheets, stop))
    assert (len(bpy.data.scenes), len(bpy.data.meshes)) == before
