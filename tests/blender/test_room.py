# SPDX-License-Identifier: GPL-3.0-or-later
"""Horizon, floor and walls of a picture without depth are changed afterwards, and its surfaces follow at once."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.footage.plane import room_of
from das_blender_addon.footage.room_grips import Grips
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.ui import room_gizmos, room_handles
from tests.support.scenes import key
from tests.support.snapshot import undo_steps

WIDTH, HEIGHT = 36, 24
PIXELS = np.random.default_rng(5).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
NEAR = 1e-4
"""Blender keeps values as float32."""


@pytest.fixture
def street(scene, tmp_path):
    (tmp_path / "street.png").write_bytes(encode_png(PIXELS))
    return tmp_path / "street.png"


def surfaces(scene) -> dict[str, np.ndarray]:
    """Name → [V,3]: the vertices of each mesh of ``scene`` in the world."""
    found = {}
    for shape in scene.objects:
        if shape.type == "MESH":
            places = np.empty(3 * len(shape.data.vertices), np.float32)
            shape.data.vertices.foreach_get("co", places)
            found[shape.name.split(".")[0]] = places.reshape(-1, 3) + np.array(shape.location)
    return found


def check_same(changed, made) -> None:
    ours, wanted = surfaces(changed), surfaces(made)
    assert ours.keys() == wanted.keys()
    for name, places in wanted.items():
        np.testing.assert_allclose(ours[name], places, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("every", [1, 3])
def test_surfaces_follow_the_values_as_if_they_had_been_imported_so(street, every):
    scene = api.import_plate(street, lens_mm=28.0, every=every).scene
    for values in (
        {"wall": 5.0},
        {"horizon": 0.4, "left": 2.0, "right": 2.5},
        {"ceiling": 2.6, "eye_height": 1.2},
        {"wall": 0.0, "ceiling": 0.0, "left": 0.0},
        {"wall": 7.0},
    ):
        for name, value in values.items():
            setattr(scene.das_room, name, value)
        known = {name: getattr(scene.das_room, name) for name in room_handles.VALUES}
        fresh = api.import_plate(street, lens_mm=28.0, every=every, **known)
        check_same(scene, fresh.scene)
        assert ("Sky" in surfaces(scene)) == (not known["wall"]), "a sky comes and goes"
        np.testing.assert_allclose(scene.camera.matrix_world, fresh.camera.matrix_world, atol=NEAR)
        assert scene.das_room.problem == ""
    bpy.context.window.scene = scene
    tracking = api.export_tracking(scene, frames=[1])
    assert tracking.coverage.all() and tracking.first_frame_visible.mean() > 0.99
    assert len([one for one in bpy.data.meshes if not one.users]) == 0


def test_camera_with_keyframes_stays_and_the_surfaces_stand_before_its_first_pose(street):
    scene = api.import_plate(street, lens_mm=28.0).scene
    first = np.array(scene.camera.matrix_world)
    key(scene.camera, "location", {1: tuple(scene.camera.location), 9: (0.5, 1.0, 1.8)})
    scene.das_room.horizon, scene.das_room.wall = 0.35, 4.0
    np.testing.assert_allclose(scene.camera.matrix_world, first, atol=NEAR)
    tracking = api.export_tracking(scene, frames=[1, 2])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    assert tracking.coverage[0].all()
    np.testing.assert_allclose(tracking.first_frame_xy[0], np.stack([x, y], axis=-1), atol=1e-2)
    fresh = api.import_plate(street, lens_mm=28.0, horizon=0.35, wall=4.0).scene
    lies = surfaces(fresh)["Plate"] - np.array(fresh.camera.matrix_world)[:3, 3]
    lies = lies @ np.array(fresh.camera.matrix_world)[:3, :3]
    ours = (surfaces(scene)["Plate"] - first[:3, 3]) @ first[:3, :3]
    np.testing.assert_allclose(ours, lies, rtol=NEAR, atol=NEAR)


def test_room_that_cannot_be_is_said_in_the_panel_and_changes_nothing(street):
    scene = api.import_plate(street, lens_mm=28.0).scene
    before = surfaces(scene)["Plate"]
    scene.das_room.ceiling = 1.0
    assert "must be higher" in scene.das_room.problem
    np.testing.assert_array_equal(surfaces(scene)["Plate"], before)
    scene.das_room.ceiling = 3.0
    assert scene.das_room.problem == "" and not np.array_equal(surfaces(scene)["Plate"], before)
    mesh = scene.das_room.surface.data
    mesh.vertices.add(1)
    scene.das_room.wall = 3.0
    assert "edited by hand" in scene.das_room.problem and scene.das_room.surface.data == mesh


MASKS = {"Car": "box:4,10,8,8", "Hund ä": "box:20,14,6,5"}


@pytest.mark.parametrize("every", [1, 2])
def test_cards_of_masked_things_stand_where_the_ground_is_then(street, every):
    scene = api.import_plate(street, lens_mm=28.0, every=every, masks=MASKS).scene
    for values in ({"eye_height": 1.1}, {"horizon": 0.42, "left": 1.5}, {"wall": 3.0}, {"wall": 0.0}, {"wall": 8.0}):
        for name, value in values.items():
            setattr(scene.das_room, name, value)
        known = {name: getattr(scene.das_room, name) for name in room_handles.VALUES}
        fresh = api.import_plate(street, lens_mm=28.0, every=every, masks=MASKS, **known)
        check_same(scene, fresh.scene)
        for name in MASKS:
            ours, theirs = (
                next(one for one in place.objects if one.name.startswith(name)) for place in (scene, fresh.scene)
            )
            np.testing.assert_allclose(ours.location, theirs.location, atol=NEAR)
            assert ours.data.materials[0].name.split(".")[0] == theirs.data.materials[0].name.split(".")[0]
        assert scene.das_room.problem == ""
    assert len([one for one in bpy.data.meshes if not one.users]) == 0


def test_thing_that_was_moved_or_keyed_is_carried_with_its_place(street):
    scene = api.import_plate(street, lens_mm=28.0, masks=MASKS).scene
    car, dog = (next(one for one in scene.objects if one.name.startswith(name)) for name in MASKS)
    first = {one: np.array(one.location) for one in (car, dog)}
    car.location.x += 0.5
    carrier = bpy.data.objects.new("Carrier", None)
    scene.collection.objects.link(carrier)
    carrier.rotation_euler.z = 0.7
    key(dog, "location", {1: tuple(dog.location), 9: tuple(np.array(dog.location) + [0.0, 0.0, 0.4])})
    dog.parent = carrier
    dog.matrix_parent_inverse = carrier.matrix_basis.inverted()
    scene.das_room.eye_height = 1.0
    fresh = api.import_plate(street, lens_mm=28.0, masks=MASKS, eye_height=1.0).scene
    places = [np.array(next(one for one in fresh.objects if one.name.startswith(name)).location) for name in MASKS]
    assert min(np.abs(place - before).max() for place, before in zip(places, first.values(), strict=True)) > 0.1
    for frame, added in ((1, 0.0), (9, 0.4)):
        scene.frame_set(frame)
        layer = scene.view_layers[0]
        layer.update()
        ours = [one.evaluated_get(layer.depsgraph).matrix_world.translation for one in (car, dog)]
        np.testing.assert_allclose(ours[0], places[0] + [0.5, 0.0, 0.0], atol=NEAR)
        np.testing.assert_allclose(ours[1], places[1] + [0.0, 0.0, added], atol=NEAR)


def test_room_does_without_a_thing_that_was_deleted_and_leaves_one_that_was_edited(street):
    scene = api.import_plate(street, lens_mm=28.0, masks=MASKS).scene
    car, dog = (next(one for one in scene.objects if one.name.startswith(name)) for name in MASKS)
    bpy.data.objects.remove(car)
    scene.das_room.wall = 5.0
    assert scene.das_room.problem == ""
    fresh = api.import_plate(street, lens_mm=28.0, masks=MASKS, wall=5.0).scene
    np.testing.assert_allclose(surfaces(scene)["Plate"], surfaces(fresh)["Plate"], rtol=NEAR, atol=NEAR)
    before, mesh = surfaces(scene)["Plate"], dog.data
    mesh.vertices.add(1)
    scene.das_room.wall = 4.0
    assert "edited by hand" in scene.das_room.problem and dog.data == mesh
    np.testing.assert_array_equal(surfaces(scene)["Plate"], before)
    scene.das_room.things[1].mask = None
    scene.das_room.wall = 6.0
    assert "no longer in the file" in scene.das_room.problem


def test_things_may_be_called_as_the_rooms_own_surfaces_are(street):
    masks = {"Plate": MASKS["Car"], "Sky": MASKS["Hund ä"]}
    scene = api.import_plate(street, lens_mm=28.0, masks=masks).scene
    for values in ({"wall": 5.0}, {"wall": 0.0}, {"eye_height": 1.2}):
        for name, value in values.items():
            setattr(scene.das_room, name, value)
        assert scene.das_room.problem == ""
    fresh = api.import_plate(street, lens_mm=28.0, masks=masks, wall=0.0, eye_height=1.2).scene
    for of in (
        lambda room: room.surface,
        lambda room: room.sky,
        *(lambda room, n=n: room.things[n].shape for n in masks),
    ):
        ours, theirs = of(scene.das_room), of(fresh.das_room)
        assert len(ours.data.vertices) == len(theirs.data.vertices)
        np.testing.assert_allclose(ours.location, theirs.location, atol=NEAR)


def test_room_of_which_things_leave_nothing_but_sky_is_none_and_does_not_become_one(street):
    """The ground is a few rows at the picture's lower edge, and all of them are a thing's."""
    masks = {"Car": f"box:0,{HEIGHT - 8},{WIDTH},8"}
    known = {"lens_mm": 28.0, "masks": masks, "horizon": (HEIGHT - 6) / HEIGHT}
    bare = api.import_plate(street, wall=0.0, **known).scene
    assert bare.das_room.surface is None and any(one.name.startswith("Car") for one in bare.objects)
    scene = api.import_plate(street, wall=5.0, **known).scene
    before = surfaces(scene)["Plate"]
    scene.das_room.wall = 0.0
    assert "nothing but sky" in scene.das_room.problem
    np.testing.assert_array_equal(surfaces(scene)["Plate"], before)


@pytest.mark.parametrize("gift", ["weights", "shape keys", "curve"])
def test_what_was_given_to_a_card_is_not_taken_away(street, gift):
    scene = api.import_plate(street, lens_mm=28.0, masks=MASKS).scene
    car = scene.das_room.things["Car"].shape
    if gift == "weights":
        car.vertex_groups.new(name="Bone").add([0], 1.0, "REPLACE")
    elif gift == "shape keys":
        car.shape_key_add(name="Basis")
    else:
        scene.das_room.things["Car"].shape = bpy.data.objects.new("Curve", bpy.data.curves.new("Curve", "CURVE"))
    mesh = car.data
    scene.das_room.wall = 5.0
    assert "edited by hand" in scene.das_room.problem and car.data == mesh


def test_only_a_picture_without_depth_has_a_room(street, tmp_path):
    np.save(tmp_path / "depth.npy", np.full((HEIGHT, WIDTH), 3.0, np.float32))
    known = {"lens_mm": 28.0, "num_frames": 2}
    deep = api.import_plate(street, depth=tmp_path / "depth.npy", depth_kind="metric", **known).scene
    masked = api.import_plate(street, masks={"Car": "box:4,10,8,8"}, **known).scene
    plain = api.import_plate(street, folder=tmp_path / "plate", **known).scene
    kept = api.import_plate(street, folder=tmp_path / "plate", **known).scene
    assert [one.das_room.surface is not None for one in (deep, masked, plain, kept)] == [False, True, True, False]
    window = bpy.context.window
    for one, is_shown in ((deep, False), (plain, True)):
        window.scene = one
        assert room_handles.DAS_PT_room.poll(bpy.context) == is_shown


def test_surfaces_follow_an_undone_value(street):
    """The step of undo was made before the surfaces were: in a window they come a moment later."""
    scene = api.import_plate(street, lens_mm=28.0).scene
    bpy.context.window.scene = scene
    bpy.ops.ed.undo_push(message="imported")
    before = surfaces(scene)["Plate"]
    room, surface = scene.das_room, scene.das_room.surface
    room.surface = None  # as in the step of undo: the value is there, the surfaces are not yet
    room.wall, room.surface = 4.0, surface
    bpy.ops.ed.undo_push(message="wall")
    scene.das_room.eye_height = 1.0
    bpy.ops.ed.undo_push(message="eyes")
    steps = undo_steps()
    bpy.ops.ed.undo()
    scene = bpy.data.scenes["street"]
    fresh = api.import_plate(street, lens_mm=28.0, wall=4.0)
    check_same(scene, fresh.scene)
    bpy.ops.ed.undo()
    np.testing.assert_allclose(surfaces(bpy.data.scenes["street"])["Plate"], before, atol=NEAR)
    assert "eyes" in steps


def test_handle_that_is_let_go_makes_the_surfaces_anew_in_one_step(street):
    scene = api.import_plate(street, lens_mm=28.0).scene
    bpy.context.window.scene = scene
    room, wanted = scene.das_room, {}
    for grip, to in (("wall", (0.5, 0.62)), ("left", (0.2, 0.5)), ("ceiling", (0.5, 0.3)), ("horizon", (0.3, 0.46))):
        grips = Grips(room_of(room), room.lens, (WIDTH, HEIGHT))
        wanted |= {grip: getattr(grips.dragged(grip, to), grip)}
        assert bpy.ops.das.drag_room(grip=grip, to=to) == {"FINISHED"}
        assert {name: getattr(room, name) for name in wanted} == pytest.approx(wanted, rel=NEAR)
        check_same(scene, api.import_plate(street, lens_mm=28.0, **wanted).scene)
    assert bpy.ops.das.drag_room(grip="left", to=(-0.1, 0.5)) == {"FINISHED"} and room.left == 0.0
    assert room.problem == "" and room_gizmos._dragged == {}


def test_handle_that_makes_no_room_changes_nothing(street):
    scene = api.import_plate(street, lens_mm=28.0, ceiling=1.7).scene
    bpy.context.window.scene = scene
    before = surfaces(scene)["Plate"]
    with pytest.raises(RuntimeError, match="must be higher"):
        bpy.ops.das.drag_room(grip="eye_height", to=(0.65, 0.97))
    lost = bpy.data.images.new("lost", 8, 8)
    lost.source, lost.filepath = "FILE", "//nowhere.png"
    assert tuple(lost.size) == (0, 0)
    for picture in (lost, None):
        scene.das_room.picture = picture
        with pytest.raises(RuntimeError, match="no longer in the file"):
            bpy.ops.das.drag_room(grip="wall", to=(0.5, 0.7))
    np.testing.assert_array_equal(surfaces(scene)["Plate"], before)
    assert scene.das_room.eye_height == pytest.approx(1.6) and scene.das_room.wall == 10.0


def test_handles_are_in_the_cameras_view_where_the_picture_was_taken_only(street):
    scene = api.import_plate(street, lens_mm=28.0).scene
    window = bpy.context.window
    window.scene = scene
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    space, shown = area.spaces.active, []
    region = next(region for region in area.regions if region.type == "WINDOW")

    def look():
        bpy.context.view_layer.update()
        with bpy.context.temp_override(window=window, area=area, region=region):
            shown.append(room_gizmos.DAS_GGT_room.poll(bpy.context))

    for perspective in ("PERSP", "CAMERA"):
        space.region_3d.view_perspective = perspective
        look()
    key(scene.camera, "location", {1: tuple(scene.camera.location), 9: (0.5, 1.0, 1.8)})
    for frame in (9, 1):
        scene.frame_set(frame)
        look()
    for is_wanted in (False, True):
        scene.das_room.show_handles = is_wanted
        look()
    scene.das_room.surface = None
    look()
    assert shown == [False, True, False, True, False, True, False]
