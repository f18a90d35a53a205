# SPDX-License-Identifier: GPL-3.0-or-later
"""What materials leave of surfaces: alpha that an image has on a UV map cuts them out as Cycles does; volumes have no
surface; what is not exact is named.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon.jobs.sources import source_of
from das_blender_addon.take import drive
from das_blender_addon.tracking.video import render_tracking_video
from tests.blender.test_content import agreement, exported, in_cycles
from tests.support.content import add_card, add_image, add_material, add_volume, by_alpha, harden, nodes_of
from tests.support.scenes import add_camera, add_cube, key

SIZE = (128, 96)
CUT_OUTS = 0.998
"""Least share of the pixels that either covers, that both cover."""


@pytest.fixture
def stage(blank_scene):
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    add_camera(scene, location=(0.5, -1.0, 4.0))
    return scene


def closest(tree, texture, principled, output):
    by_alpha(tree, texture, principled, output)
    texture.interpolation, texture.extension = "Closest", "CLIP"


def by_colour(tree, texture, principled, output):
    tree.links.new(texture.outputs["Color"], principled.inputs["Alpha"])


def by_green_of_srgb(tree, texture, principled, output):
    texture.image = add_image(colours="sRGB", seed=5, opaque=True)
    separate = tree.nodes.new("ShaderNodeSeparateColor")
    tree.links.new(texture.outputs["Color"], separate.inputs[0])
    tree.links.new(separate.outputs["Green"], principled.inputs["Alpha"])


def by_inverted_colour(tree, texture, principled, output):
    texture.image = add_image(colours="sRGB", seed=6, opaque=True)
    invert = tree.nodes.new("ShaderNodeInvert")
    tree.links.new(texture.outputs["Color"], invert.inputs["Color"])
    tree.links.new(invert.outputs[0], principled.inputs["Alpha"])


def mixed(tree, texture, principled, output):
    """Transparent where the image is, inside a group, and mirrored."""
    group = bpy.data.node_groups.new("Mixed", "ShaderNodeTree")
    group.interface.new_socket("Fac", in_out="INPUT", socket_type="NodeSocketFloat")
    group.interface.new_socket("Surface", in_out="OUTPUT", socket_type="NodeSocketShader")
    start, end = group.nodes.new("NodeGroupInput"), group.nodes.new("NodeGroupOutput")
    mix, clear = group.nodes.new("ShaderNodeMixShader"), group.nodes.new("ShaderNodeBsdfTransparent")
    diffuse = group.nodes.new("ShaderNodeBsdfDiffuse")
    group.links.new(start.outputs[0], mix.inputs[0])
    group.links.new(diffuse.outputs[0], mix.inputs[1])
    group.links.new(clear.outputs[0], mix.inputs[2])
    group.links.new(mix.outputs[0], end.inputs[0])
    node = tree.nodes.new("ShaderNodeGroup")
    node.node_tree = group
    tree.links.new(texture.outputs["Alpha"], node.inputs[0])
    tree.links.new(node.outputs[0], output.inputs["Surface"])
    texture.extension = "MIRROR"


def compared(tree, texture, principled, output):
    """Where the image is more than 0.3, on the other map, moved and scaled."""
    compare = tree.nodes.new("ShaderNodeMath")
    compare.operation, compare.inputs[1].default_value = "GREATER_THAN", 0.3
    uv_map, mapping = tree.nodes.new("ShaderNodeUVMap"), tree.nodes.new("ShaderNodeMapping")
    uv_map.uv_map = "Other"
    mapping.inputs["Scale"].default_value, mapping.inputs["Location"].default_value = (3.0, 2.0, 1.0), (0.3, 0.1, 0.0)
    tree.links.new(uv_map.outputs[0], mapping.inputs[0])
    tree.links.new(mapping.outputs[0], texture.inputs[0])
    tree.links.new(texture.outputs["Alpha"], compare.inputs[0])
    tree.links.new(compare.outputs[0], principled.inputs["Alpha"])


def sentences(geometry) -> tuple[str, ...]:
    return tuple(note.sentence for note in geometry.notes)


WAYS = [by_alpha, closest, by_colour, by_green_of_srgb, by_inverted_colour, mixed, compared]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.__name__)
def test_image_cuts_a_surface_out_as_in_cycles(stage, tmp_path, how):
    material, card = add_material("Leaf"), add_card(stage)
    tree, texture, principled, output = nodes_of(material)
    texture.image = add_image(smooth=how is not closest)
    how(tree, texture, principled, output)
    card.data.materials.append(material)
    geometry = exported(stage)
    assert geometry.notes == ()
    video = render_tracking_video(geometry)
    if how is not compared:
        harden(material)
    truth = in_cycles(stage, tmp_path) > 127
    assert 0.05 < video.coverage[0].mean() < 0.8
    assert agreement(video.coverage[0], truth) >= CUT_OUTS


def test_what_is_behind_the_holes_is_seen(stage, tmp_path):
    """Three cards behind each other, one leaf of two materials, and a cube far behind."""
    material = add_material("Leaf")
    tree, texture, principled, output = nodes_of(material)
    texture.image = add_image()
    by_alpha(tree, texture, principled, output)
    for number, height in enumerate((0.0, 0.5, 1.0)):
        card = add_card(stage, f"Card {number}", size=2.0 - 0.4 * number, location=(0.1 * number, 0.0, height))
        card.data.materials.append(material)
        card.pass_index = number + 1
    card.data.materials.append(add_material("Solid"))
    card.data.polygons[4].material_index = 1
    cube = add_cube(stage, size=1.0, location=(0.0, 0.0, -1.0))
    cube.pass_index = 4
    covered = render_tracking_video(exported(stage)).coverage[0]
    harden(material)
    truth = in_cycles(stage, tmp_path) > 127
    assert agreement(covered, truth) >= CUT_OUTS
    for hidden in stage.objects:
        if hidden.type == "MESH" and hidden is not cube:
            hidden.hide_render = True
    assert (render_tracking_video(exported(stage)).coverage[0] <= covered).all(), "the cube fills its holes"


def test_volumes_and_what_is_nearly_transparent_are_no_surface_and_named(stage, tmp_path):
    add_volume(stage)
    add_cube(stage, "Ghost", location=(1.0, 0.0, 0.0)).data.materials.append(add_material("Thin", alpha=0.3))
    add_cube(stage, "Veil", location=(-1.0, 0.0, 0.0)).data.materials.append(add_material("Thick", alpha=0.7))
    volume = bpy.data.objects.new("Smoke", bpy.data.volumes.new("Smoke"))
    stage.collection.objects.link(volume)
    geometry = exported(stage)
    assert geometry.vertices.shape == (1, 8, 3), "the veil"
    through = "it is not tracked, and what is behind it is tracked through it"
    assert sentences(geometry) == (
        f"'Cloud' has a volume and no surface: {through}.",
        f"'Ghost' is more transparent than opaque: {through}.",
        "'Smoke' is a volume: it has no surface that could be tracked, and what is behind it is tracked through it.",
    )


def test_one_face_without_a_surface_is_left_out_alone(stage):
    card = add_card(stage)
    card.data.materials.append(add_material("Solid"))
    card.data.materials.append(add_material("Gone", alpha=0.0))
    card.data.polygons[4].material_index = 1
    geometry = exported(stage)
    assert geometry.triangles.shape == (16, 3) and len(geometry.notes) == 1


def test_what_is_seen_solid_is_named(stage):
    noise, glass, lost = add_material("Noise"), add_material("Glass"), add_material("Lost")
    tree = noise.node_tree
    principled = tree.nodes["Principled BSDF"]
    tree.links.new(tree.nodes.new("ShaderNodeTexNoise").outputs[0], principled.inputs["Alpha"])
    glass.node_tree.nodes["Principled BSDF"].inputs["Transmission Weight"].default_value = 1.0
    tree, texture, principled, output = nodes_of(lost)
    texture.image = add_image()
    by_alpha(tree, texture, principled, output)
    fading = add_material("Fading", alpha=0.2)
    key(fading.node_tree.nodes["Principled BSDF"].inputs["Alpha"], "default_value", {1: 0.2, 9: 1.0})
    for name, material in (("Rust", noise), ("Pane", glass), ("Bare", lost), ("Dawn", fading)):
        add_cube(stage, name).data.materials.append(material)
    geometry = exported(stage)
    assert len(geometry.triangles) == 48 and geometry.cut is None
    solid = "whose alpha cannot be made an image: it is tracked as if it were solid."
    assert sentences(geometry) == (
        f"'Bare' has a material 'Lost' {solid}",
        f"'Dawn' has a material 'Fading' {solid}",
        "'Pane' lets light through its material 'Glass': its surface is tracked, not what is seen through it.",
        f"'Rust' has a material 'Noise' {solid}",
    )


def test_alpha_that_changes_is_named(stage):
    """A mapping that moves, and a surface that fades away; what glows more and more has the same alpha."""
    moving, fading, glowing = add_material("Moving"), add_material("Fading"), add_material("Glowing")
    tree, texture, principled, output = nodes_of(moving)
    texture.image = add_image()
    compared(tree, texture, principled, output)
    mapping = next(node for node in tree.nodes if node.type == "MAPPING")
    key(mapping.inputs["Location"], "default_value", {1: 0.0, 3: 1.0}, index=0)
    key(fading.node_tree.nodes["Principled BSDF"].inputs["Alpha"], "default_value", {1: 1.0, 3: 0.0})
    key(glowing.node_tree.nodes["Principled BSDF"].inputs["Emission Strength"], "default_value", {1: 0.0, 3: 1.0})
    add_card(stage).data.materials.append(moving)
    for name, material in (("Dusk", fading), ("Lamp", glowing)):
        add_cube(stage, name).data.materials.append(material)
    geometry = exported(stage, (1, 2, 3))
    words = "whose alpha changes over time: it is tracked as it is at first."
    assert sentences(geometry) == (
        f"'Card' has a material 'Moving' {words}",
        f"'Dusk' has a material 'Fading' {words}",
    )
    assert len(geometry.triangles) == 18 + 24 and len(geometry.cut.triangles) == 18


@pytest.mark.any_blender
def test_cut_outs_and_notes_come_from_a_child_as_they_are(stage):
    """And the tracking video with them."""
    material, card = add_material("Leaf"), add_card(stage)
    tree, texture, principled, output = nodes_of(material)
    texture.image = add_image()
    by_alpha(tree, texture, principled, output)
    card.data.materials.append(material)
    add_cube(stage, "Ghost").data.materials.append(add_material("Thin", alpha=0.3))
    found = []
    for in_child in (True, False):
        source = source_of(stage, stage.view_layers[0].name, in_child=in_child)
        try:
            geometry = drive.finish(source.export((1, 2), SIZE, lambda *_: None))
            found.append((geometry.notes, render_tracking_video(geometry).coverage, geometry.cut.arrays()))
        finally:
            source.close()
    (notes, coverage, arrays), (own_notes, own_coverage, own_arrays) = found
    assert notes == own_notes and len(notes) == 1
    np.testing.assert_array_equal(coverage, own_coverage)
    assert arrays.keys() == own_arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, own_arrays[name])
    assert 0.05 < coverage.mean() < 0.6


def test_cut_out_whose_topology_changes_is_cut_out_in_every_frame(stage, tmp_path):
    card = add_card(stage)
    material = add_material("Leaf")
    tree, texture, principled, output = nodes_of(material)
    texture.image = add_image()
    by_alpha(tree, texture, principled, output)
    card.data.materials.append(material)
    build = card.modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 1, 9
    add_cube(stage, "Behind", size=0.8, location=(0.0, 0.0, -1.0))
    geometry = exported(stage, (4, 7), SIZE)
    assert geometry.changes is not None and geometry.cut is not None
    video = render_tracking_video(geometry)
    harden(material)
    for index, frame in enumerate((4, 7)):
        stage.frame_set(frame)
        truth = in_cycles(stage, tmp_path) > 127
        assert agreement(video.coverage[index], truth) >= CUT_OUTS
