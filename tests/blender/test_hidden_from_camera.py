# SPDX-License-Identifier: GPL-3.0-or-later
"""Holdouts, indirect only, objects that no camera sees, shadow catchers, by object and by view layer, own and linked,
themselves and as instances: where Cycles shows nothing there is no surface.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.layers import is_aside
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.video import render_tracking_video
from tests.blender.test_content import in_cycles
from tests.support.scenes import CUBE_FACES, add_camera, add_cube, link

SIZE = (96, 64)
PX_PER_UNIT = 10
FLAGS = {
    "plain": {}, "holdout": {"is_holdout": True}, "no camera": {"visible_camera": False},
    "catcher": {"is_shadow_catcher": True}, "not rendered": {"hide_render": True},
    "layer's holdout": {"holdout": True}, "layer's indirect": {"indirect_only": True},
}  # fmt: skip
OF_LAYERS = ("layer's holdout", "layer's indirect")
ROWS = ("itself", "instance of it", "its instances")
"""Who has the flag: an object, seen itself or as an instance; the object that shows instances of another one."""
ASIDE = 50.0
#: Cycles and the rasteriser decide pixel centres on an outline differently, in float32 or not.
LEAST_AGREEMENT = 0.97


def cube_in_collection(name: str, place) -> bpy.types.Collection:
    mesh = bpy.data.meshes.new(name)
    sides = (-0.3, 0.3)
    mesh.from_pydata([(x, y, z) for x in sides for y in sides for z in sides], [], CUBE_FACES)
    shape = bpy.data.objects.new(name, mesh)
    shape.location = place
    collection = bpy.data.collections.new(name)
    collection.objects.link(shape)
    return collection


def set_flags(owner, flags: dict) -> None:
    for name, value in flags.items():
        setattr(owner, name, value)


def linked_from_a_library(names: list[str], folder) -> None:
    """An empty file with the collections ``names`` of this one linked into it."""
    library = folder / "library.blend"
    bpy.data.libraries.write(str(library), {bpy.data.collections[name] for name in names}, fake_user=True)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.collections = list(names)
    assert all(bpy.data.collections[name].library for name in names)


def build(folder, linked: bool):
    """A column for each of `FLAGS`, a row for each of `ROWS`, seen from before."""
    for column, (flag, flags) in enumerate(FLAGS.items()):
        for row, who in enumerate(ROWS):
            collection = cube_in_collection(f"{flag}, {who}", (column - 3, 0, 1) if row == 0 else (0, 0, ASIDE))
            if flag not in OF_LAYERS and who != "its instances":
                set_flags(collection.objects[0], flags)
    if linked:
        linked_from_a_library([f"{flag}, {who}" for flag in FLAGS for who in ROWS], folder)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.frame_start = scene.frame_end = 1
    in_layer = bpy.context.view_layer.layer_collection.children
    for column, (flag, flags) in enumerate(FLAGS.items()):
        for row, who in enumerate(ROWS):
            collection, flagged = bpy.data.collections[f"{flag}, {who}"], None
            if who == "itself" or (who == "instance of it" and flag in OF_LAYERS):
                scene.collection.children.link(collection)
                flagged = in_layer[collection.name]
            if who != "itself":
                own = bpy.data.collections.new(f"Own {collection.name}")
                scene.collection.children.link(own)
                shown = bpy.data.objects.new(own.name, None)
                own.objects.link(shown)
                shown.location = (column - 3, 0, 1 - row - ASIDE)
                shown.instance_type, shown.instance_collection = "COLLECTION", collection
                if who == "its instances":
                    flagged = in_layer[own.name]
                    if flag not in OF_LAYERS:
                        set_flags(shown, flags)
            if flag in OF_LAYERS:
                set_flags(flagged, flags)
    camera = add_camera(scene)
    camera.data.type, camera.data.ortho_scale = "ORTHO", SIZE[0] / PX_PER_UNIT
    return scene


def seen(scene, layer: str = "") -> np.ndarray:
    """[H,W] bool: where the export of a view layer has a surface."""
    export = GeometryExport(*SIZE)
    walk_in_render(scene, layer or scene.view_layers[0].name, [1], export.add)
    return render_tracking_video(export.finish()).coverage[0]


def cell(picture: np.ndarray, flag: str, who: str) -> bool:
    """What ``picture`` says of the middle of a cube of `build`."""
    column, row = list(FLAGS).index(flag) - 3, ROWS.index(who) - 1
    return bool(picture[SIZE[1] // 2 + PX_PER_UNIT * row, SIZE[0] // 2 + PX_PER_UNIT * column])


@pytest.mark.parametrize("linked", [False, True], ids=["own", "linked"])
def test_there_is_a_surface_where_cycles_shows_one(blank_scene, tmp_path, linked):
    scene = build(tmp_path, linked)
    if linked:  # a name does not tell whose an object is
        add_cube(scene, "layer's holdout, itself", location=(0, -60, 0))
    ours, truth = seen(scene), in_cycles(scene, tmp_path) > 127
    told = {(flag, who): (cell(ours, flag, who), cell(truth, flag, who)) for flag in FLAGS for who in ROWS}
    assert {key: one for key, (one, other) in told.items() if one != other} == {}
    assert (ours & truth).sum() / (ours | truth).sum() > LEAST_AGREEMENT
    shown = {key for key, (one, _) in told.items() if one}
    # Of instances Cycles asks the object that shows them whether they are a hole, not what they are instances of.
    instances = {(flag, "instance of it") for flag in ("holdout", *OF_LAYERS)}
    assert shown == {("plain", who) for who in ROWS} | instances


def test_each_view_layer_has_its_own_holes(blank_scene, tmp_path):
    scene = build(tmp_path, linked=False)
    other = scene.view_layers.new("Other")
    for collection in other.layer_collection.children:
        collection.holdout = collection.indirect_only = False
    other.layer_collection.children["plain, itself"].holdout = True
    first, second = seen(scene), seen(scene, "Other")
    assert cell(first, "plain", "itself") and not cell(second, "plain", "itself")
    for flag in OF_LAYERS:
        assert not cell(first, flag, "itself") and cell(second, flag, "itself")
        assert not cell(first, flag, "its instances") and cell(second, flag, "its instances")
    assert not cell(first, "holdout", "itself") and not cell(second, "holdout", "itself")


def test_object_of_no_collection_of_a_layer_is_not_aside(blank_scene):
    cube = add_cube(blank_scene)
    blank_scene.collection.objects.unlink(cube)
    assert is_aside(cube, blank_scene.view_layers[0]) is False


def test_what_is_behind_an_object_that_the_camera_does_not_see_is_seen_through_it(scene):
    add_camera(scene)
    add_cube(scene, "Behind", size=2.0, location=(0, 3, 0))
    near = add_cube(scene, "Near")
    whole = api.export_tracking(scene, frames=[1])
    near.visible_camera = False
    through = api.export_tracking(scene, frames=[1])
    bpy.data.objects.remove(near)
    alone = api.export_tracking(scene, frames=[1])
    np.testing.assert_array_equal(through.video, alone.video)
    assert alone.coverage.any() and not np.array_equal(through.video, whole.video)


def test_report_names_holdouts_and_shadow_catchers(scene):
    add_camera(scene)
    add_cube(scene, "Subject")
    floor = add_cube(scene, "Floor", location=(2, 0, 0))
    floor.is_shadow_catcher = True
    hidden = add_cube(scene, "Hidden Floor", location=(2, 0, 0))
    hidden.is_shadow_catcher = hidden.hide_render = True
    for name, place in (("Hole", (0, 3, 0)), ("Own Hole", (0, 4, 0))):
        group = bpy.data.collections.new(name)
        scene.collection.children.link(group)
        scene.collection.objects.unlink(add_cube(scene, name, location=place))
        group.objects.link(bpy.data.objects[name])
    bpy.context.view_layer.layer_collection.children["Hole"].holdout = True
    bpy.data.objects["Own Hole"].is_holdout = True
    found = {one.code: one for one in api.check_shot(scene).findings}
    assert set(found["scene.holdout"].objects) == {"Hole", "Own Hole"}
    assert found["scene.shadow_catcher"].objects == ("Floor",) and found["scene.shadow_catcher"].level == "note"
    link(scene, "Empty").is_shadow_catcher = True
    assert [one.objects for one in api.check_shot(scene).findings if one.code == "scene.shadow_catcher"] == [("Floor",)]
