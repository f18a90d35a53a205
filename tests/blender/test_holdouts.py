# SPDX-License-Identifier: GPL-3.0-or-later
"""Holdouts, by object, by collection and by material, are holes where Cycles ends its rays: black, with no alpha,
whatever is behind them.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.scene.content.shader import read_material
from das_blender_addon.scene.content.sheet_render import render_sheets
from das_blender_addon.tracking.geometry import HOLE
from das_blender_addon.tracking.passes import surface_passes
from das_blender_addon.tracking.video import render_tracking_video
from tests.blender.test_content import agreement, exported, in_cycles
from tests.support.content import add_card, add_cut_out, add_hair_curves, add_image, harden
from tests.support.scenes import add_camera, add_cube, add_grid, key

SIZE = (120, 80)
HOLES = 0.96
"""Least share of the pixels of holes that either has, that both have; some are of hair."""


def holdout(name="Holdout", **parts):
    """A material whose surface is a holdout; or that mixed (``share`` of the other one) or added with ``kind``."""
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    end = tree.nodes.new("ShaderNodeOutputMaterial")
    found = tree.nodes.new("ShaderNodeHoldout").outputs[0]
    if "kind" in parts:
        other = tree.nodes.new(f"ShaderNode{parts['kind']}")
        joint = tree.nodes.new("ShaderNodeMixShader" if "share" in parts else "ShaderNodeAddShader")
        if "share" in parts:
            joint.inputs[0].default_value = parts["share"]
        first = 1 if "share" in parts else 0
        tree.links.new(found, joint.inputs[first])
        tree.links.new(other.outputs[0], joint.inputs[first + 1])
        found = joint.outputs[0]
    tree.links.new(found, end.inputs[0])
    return material


def into_collection(shape, name):
    group = bpy.data.collections.new(name)
    bpy.context.scene.collection.children.link(group)
    group.objects.link(shape)
    bpy.context.scene.collection.objects.unlink(shape)
    return bpy.context.view_layer.layer_collection.children[name]


def stage(scene):
    """A wall, and before it what holds out in every way."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_camera(scene, location=(0.0, -9.0, 0.0))
    key(camera, "location", {1: (0.0, -9.0, 0.0), 3: (0.9, -9.0, 0.4)})
    wall = add_grid(scene, "Wall", size=30.0, location=(0.0, 5.0, 0.0))
    wall.rotation_euler.x = np.pi / 2
    add_cube(scene, "Own", location=(-3.0, 0.0, 1.2)).is_holdout = True
    into_collection(add_cube(scene, "Grouped", location=(-1.2, 0.0, 1.2)), "Held Out").holdout = True
    catcher = add_cube(scene, "Catcher", size=0.6, location=(-1.5, 0.0, 0.0))
    catcher.is_holdout = catcher.is_shadow_catcher = True
    faces = add_cube(scene, "Faces", location=(0.6, 0.0, 1.2))
    faces.data.materials.append(bpy.data.materials.new("Plain"))
    faces.data.materials.append(holdout())
    faces.rotation_euler.z = -0.7
    for face in faces.data.polygons:
        face.material_index = int(face.center.x > 0.1)
    cut = add_cut_out(scene, size=1.6)
    harden(cut.data.materials[0])
    cut.location, cut.rotation_euler.x, cut.is_holdout = (2.6, 0.0, 1.2), np.pi / 2, True
    for column, parts in enumerate(
        ({"kind": "Emission"}, {"kind": "Emission", "share": 0.3}, {"kind": "BsdfTransparent", "share": 0.9})
    ):
        shape = add_cube(scene, f"Joint {column}", size=0.8, location=(-3.0 + 1.4 * column, 0.0, -1.2))
        shape.data.materials.append(holdout(f"Joint {column}", **parts))
    hair = add_hair_curves(scene, 30, radius=0.1)
    hair.location, hair.scale = (2.6, 0.0, -1.2), (0.5, 0.5, 0.5)
    hair.data.materials.append(holdout("Hair"))
    scene.frame_set(1)
    return scene


def test_holes_are_where_cycles_has_no_alpha_before_a_wall(blank_scene, tmp_path):
    scene = stage(blank_scene)
    geometry = exported(scene, (1, 2, 3), SIZE)
    made = render_tracking_video(geometry, sky=True)
    for index in (0, 2):
        scene.frame_set(index + 1)
        truth, hole = in_cycles(scene, tmp_path, samples=4) <= 127, ~made.coverage[index]
        assert truth.mean() > 0.15 and agreement(hole, truth) > HOLES
        assert not made.video[index][hole].any() and np.isnan(made.first_frame_xy[index][hole]).all()
    names = {geometry.names[number] for number in np.unique(geometry.objects[geometry.roles == HOLE])}
    assert names == {"Own", "Grouped", "Catcher", "Faces", "Card", "Joint 0", "Joint 1", "Hair"}


def linked(scene, folder):
    """The stage's collection from a library, and an instance of it."""
    stage(scene)
    for shape in [one for one in scene.collection.objects if one.name in ("Own", "Faces", "Joint 0")]:
        into_collection(shape, shape.name)
    names = ["Own", "Faces", "Joint 0"]
    bpy.data.libraries.write(str(folder / "library.blend"), {bpy.data.collections[name] for name in names})
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with bpy.data.libraries.load(str(folder / "library.blend"), link=True) as (_, wanted):
        wanted.collections = list(names)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    add_camera(scene, location=(0.0, -9.0, 0.0))
    wall = add_grid(scene, "Wall", size=30.0, location=(0.0, 5.0, 0.0))
    wall.rotation_euler.x = np.pi / 2
    for name in names:
        scene.collection.children.link(bpy.data.collections[name])
    shown = bpy.data.objects.new("Shown", None)
    shown.instance_type, shown.instance_collection = "COLLECTION", bpy.data.collections["Own"]
    shown.location, shown.is_holdout = (3, 0, -2), True
    scene.collection.objects.link(shown)
    return scene


@pytest.mark.any_blender
@pytest.mark.parametrize("mask", ["image", "noise"])
def test_mask_that_holds_out_makes_holes_of_a_part_of_a_surface(blank_scene, tmp_path, mask):
    """Before a wall that is seen beside the card only; the passes know nothing in the holes either."""
    scene = stage(blank_scene)
    for shape in [one for one in scene.objects if one.name not in ("Wall", "Camera")]:
        bpy.data.objects.remove(shape)
    card, material = add_card(scene), holdout("Masked", kind="BsdfDiffuse", share=0.5)
    card.rotation_euler.x = np.pi / 2
    card.data.materials.append(material)
    tree = material.node_tree
    joint = next(node for node in tree.nodes if node.type == "MIX_SHADER")
    texture = tree.nodes.new("ShaderNodeTexImage" if mask == "image" else "ShaderNodeTexNoise")
    if mask == "image":
        texture.image = add_image()
    compare = tree.nodes.new("ShaderNodeMath")
    compare.operation, compare.inputs[1].default_value = "GREATER_THAN", 0.5
    tree.links.new(texture.outputs["Alpha" if mask == "image" else 0], compare.inputs[0])
    tree.links.new(compare.outputs[0], joint.inputs[0])
    assert read_material(material).backs
    geometry = exported(scene, (1,), SIZE, render_sheets)
    made, truth = render_tracking_video(geometry), in_cycles(scene, tmp_path) <= 127
    hole = ~made.coverage[0]
    assert 0.01 < truth.mean() < 0.2 and agreement(hole, truth) > HOLES
    found = surface_passes(geometry, 0)
    np.testing.assert_array_equal(np.isinf(found.depth), hole)
    assert {found.names[number] for number in np.unique(found.objects[~hole])} == {"Wall", "Card"}
    (told,) = geometry.notes
    assert told.code == "holdout" and "'Masked' holds out" in told.words


def test_linked_holdouts_are_holes(blank_scene, tmp_path):
    scene = linked(blank_scene, tmp_path)
    hole = ~render_tracking_video(exported(scene, (1,), SIZE)).coverage[0]
    truth = in_cycles(scene, tmp_path) <= 127
    assert truth.mean() > 0.1 and agreement(hole, truth) > HOLES


@pytest.mark.any_blender
def test_report_names_holes_and_what_they_are_made_of(scene):
    stage(scene)
    told = [one for one in api.check_shot(scene).findings if one.code == "scene.holdout"]
    (flagged,) = (one for one in told if len(one.objects) > 1)
    assert set(flagged.objects) == {"Own", "Grouped", "Catcher", "Card"} and all(one.level == "note" for one in told)
    assert "alpha is 1" in flagged.words and "Film › Transparent" in flagged.remedy
    scene.render.film_transparent = True
    again = [one for one in api.check_shot(scene).findings if one.code == "scene.holdout" and len(one.objects) > 1]
    assert len(again) == 1 and "alpha" not in again[0].words and not again[0].remedy
    made_of = {one.objects[0]: one.words for one in told if one is not flagged}
    assert set(made_of) == {"Faces", "Joint 0", "Joint 1", "Hair"} and "'Holdout'" in made_of["Faces"]


def test_what_becomes_a_holdout_is_another_thing_from_then_on(scene):
    """Its points are tracked while it is none."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    add_camera(scene)
    cube = add_cube(scene)
    key(cube, "is_holdout", {1: False, 3: True})
    made = api.export_tracking(scene, frames=[1, 2, 3, 4])
    assert made.coverage.any(axis=(1, 2)).tolist() == [True, True, False, False]
    assert made.first_frame_visible[1][made.coverage[1]].mean() > 0.9


@pytest.mark.any_blender
@pytest.mark.parametrize(
    ("parts", "is_hole"),
    [
        ({}, True),
        ({"kind": "Emission"}, True),
        ({"kind": "Emission", "share": 0.3}, True),
        ({"kind": "Emission", "share": 0.6}, False),
        ({"kind": "BsdfTransparent", "share": 0.4}, True),
        ({"kind": "BsdfTransparent", "share": 0.6}, False),
        ({"kind": "Holdout", "share": 0.6}, True),
    ],
)
def test_material_is_a_hole_where_most_of_it_is_held_out(blank_scene, parts, is_hole):
    assert read_material(holdout(**parts)).is_hole is is_hole


@pytest.mark.any_blender
def test_holdout_that_only_a_group_or_nothing_leads_to(blank_scene):
    material = holdout()
    assert not read_material(bpy.data.materials.new("Plain")).is_hole
    group = bpy.data.node_groups.new("Group", "ShaderNodeTree")
    group.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    group.links.new(group.nodes.new("ShaderNodeHoldout").outputs[0], group.nodes.new("NodeGroupOutput").inputs[0])
    tree = material.node_tree
    node = tree.nodes.new("ShaderNodeGroup")
    node.node_tree = group
    end = next(one for one in tree.nodes if one.type == "OUTPUT_MATERIAL")
    tree.links.new(node.outputs[0], end.inputs[0])
    assert read_material(material).is_hole
    for link in list(tree.links):
        tree.links.remove(link)
    assert not read_material(material).is_hole
