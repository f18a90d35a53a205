# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that render and never come into view are named, and no others."""

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from das_blender_addon import api, commands
from das_blender_addon.jobs.scripting import exported_geometry
from das_blender_addon.take.last_reports import last_report
from das_blender_addon.tracking.geometry import OFF_SCREEN
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

SIZE = (96, 64)
#: Half of what the camera of `stage` sees at the origin, 8 units before it: a 50 mm lens on 36 mm of film.
HALF_WIDTH, HALF_HEIGHT = 8 * 18 / 50, 8 * 18 / 50 * 64 / 96


@pytest.fixture
def stage(scene):
    """A camera that looks at a cube in the origin, in three frames."""
    add_camera(scene)
    add_cube(scene, "Subject")
    scene.frame_end = 3
    return scene


def off_screen(scene, frames=(1, 2, 3)) -> list[str]:
    """The objects that an export of ``scene`` says are never in view."""
    with exported_geometry(scene, tuple(frames), SIZE, None, None, None) as geometry:
        return [note.name for note in geometry.notes if note.code == OFF_SCREEN]


def test_objects_beside_above_behind_and_beyond_are_named_by_name(stage):
    stage.camera.data.clip_end = 60.0
    places = {
        "Links": (-HALF_WIDTH - 1, 0, 0), "Rechts": (HALF_WIDTH + 1, 0, 0), "Über": (0, 0, HALF_HEIGHT + 1),
        "Unter": (0, 0, -HALF_HEIGHT - 1), "Behind": (0, -12, 0), "Beyond": (0, 60, 0),
    }  # fmt: skip
    for name, place in places.items():
        add_cube(stage, name, location=place)
    assert off_screen(stage) == sorted(places)


@pytest.mark.parametrize(("beyond", "expected"), [(0.55, ["Edge"]), (0.45, [])])
def test_border_of_the_picture_decides(stage, beyond, expected):
    """A cube of size 1 whose near side reaches over the border by a twentieth, or does not."""
    near = 7.5 / 8 * HALF_WIDTH
    far = 8.5 / 8 * HALF_WIDTH
    add_cube(stage, "Edge", location=((far if beyond > 0.5 else near) + beyond, 0, 0))
    assert off_screen(stage) == expected


def test_one_frame_is_enough_and_only_frames_of_the_shot_count(stage):
    guest = add_cube(stage, "Guest")
    key(guest, "location", {1: 30.0, 2: 0.0, 3: 30.0}, index=0)
    assert off_screen(stage) == []
    assert off_screen(stage, frames=(1, 3)) == ["Guest"]


def test_camera_that_turns_or_is_another_one_sees_more(stage):
    add_cube(stage, "Aside", location=(30, 0, 0))
    assert off_screen(stage) == ["Aside"]
    other = add_camera(stage, "Other", location=(30, -8, 0), look_at=(30, 0, 0))
    for frame, camera in ((1, bpy.data.objects["Camera"]), (3, other)):
        stage.timeline_markers.new(camera.name, frame=frame).camera = camera
    assert off_screen(stage) == []


def test_what_does_not_render_or_has_no_surface_is_not_named(stage):
    hidden = add_cube(stage, "Hidden", location=(0, -30, 0))
    hidden.hide_render = True
    ignored = add_cube(stage, "Ignored", location=(0, -30, 0))
    ignored.das.tracking = "IGNORE"
    unseen = add_cube(stage, "Unseen", location=(0, -30, 0))
    unseen.visible_camera = False
    link(stage, "Empty").location = (0, -30, 0)
    link(stage, "Edges", bpy.data.meshes.new("Edges")).data.from_pydata([(0, -30, 0), (1, -30, 0)], [(0, 1)], [])
    assert off_screen(stage) == []


def test_surface_around_the_camera_is_in_view_though_none_of_its_vertices_is(stage):
    add_grid(stage, "Ground", cells=1, size=400.0, location=(0, 0, -1))
    add_cube(stage, "Room", size=40.0)
    add_grid(stage, "Ceiling", cells=1, size=4.0, location=(0, -30, 5))
    assert off_screen(stage) == ["Ceiling"]


def test_box_in_view_is_not_enough(stage):
    """Two halves of one mesh far apart, on both sides of the picture, are in a box that fills it."""
    mesh = bpy.data.meshes.new("Halves")
    corners = [(side * 30 + x, 0, z) for side in (-1, 1) for x, z in ((0, 0), (1, 0), (0, 1))]
    mesh.from_pydata(corners, [], [(0, 1, 2), (3, 4, 5)])
    link(stage, "Halves", mesh)
    tall = bpy.data.meshes.new("Corner")  # its box reaches into view, its triangle only beside it
    tall.from_pydata([(2.0, 0, 90), (90, 0, 0), (90, 0, 90)], [], [(0, 1, 2)])
    link(stage, "Corner", tall)
    assert off_screen(stage) == [], "nobody can be sure of the first without drawing it"


def test_orthographic_view_has_straight_sides(stage):
    camera = stage.camera.data
    camera.type, camera.ortho_scale, camera.shift_x = "ORTHO", 4.0, 0.25
    add_cube(stage, "Far", location=(2.4, 60, 0))  # a lens would see it
    add_cube(stage, "Right", location=(3.7, 0, 0))
    add_cube(stage, "Left", location=(-1.7, 0, 0))
    assert off_screen(stage) == ["Left", "Right"]


def test_instances_count_as_the_object_that_shows_them(stage):
    flock = bpy.data.collections.new("Flock")
    bird = bpy.data.objects.new("Bird", add_cube(stage, "Pattern", location=(0, -30, 0)).data)
    flock.objects.link(bird)
    for name, place in (("Here", (1, 0, 0)), ("There", (0, -40, 0)), ("Inside Out", (50, 0, 0))):
        shown = link(stage, name)
        shown.instance_type, shown.instance_collection, shown.location = "COLLECTION", flock, place
    bpy.data.objects["Inside Out"].scale = (-2, 1, 0.5)
    assert off_screen(stage) == ["Inside Out", "Pattern", "There"]


def test_turned_scaled_and_sheared_objects_are_where_they_render(stage):
    """The sides of the view in the space of each: against its vertices in the world."""
    rng, expected = np.random.default_rng(5), []
    for number in range(24):
        cube = add_cube(stage, f"C{number:02d}")
        turn = Matrix.Rotation(rng.uniform(0, 6), 4, rng.normal(size=3))
        shear = Matrix.Shear("XY", 4, tuple(rng.uniform(-1, 1, 2)))
        scale = Matrix.Diagonal((*rng.uniform(-1.5, 1.5, 3), 1.0))
        place = Matrix.Translation((rng.uniform(-7, 7), rng.uniform(-2, 2), rng.uniform(-5, 5)))
        cube.parent = link(stage, f"Parent {number}")
        cube.parent.matrix_world = place @ turn
        cube.matrix_local = shear @ scale
        bpy.context.view_layer.update()
        points = np.array([cube.matrix_world @ vertex.co for vertex in cube.data.vertices])
        x, depth, z = points[:, 0], points[:, 1] + 8.0, points[:, 2]
        across, up = 18 / 50 * depth, 18 / 50 * 64 / 96 * depth
        if any(side.all() for side in (x > across, x < -across, z > up, z < -up)):
            expected.append(cube.name)
    assert 5 < len(expected) < 20 and off_screen(stage) == expected


def test_points_that_are_no_numbers_are_nowhere(stage):
    broken = add_cube(stage, "Broken")
    broken.data.vertices.foreach_set("co", np.full(24, np.nan, np.float32))
    partly = add_cube(stage, "Partly", location=(0, -30, 0))
    partly.data.vertices[0].co = (np.inf, 0, 0)
    assert off_screen(stage) == ["Broken", "Partly"]


def test_report_names_all_of_them_at_once_and_selects_them(shot_scene):
    for name in ("Ünseen 1", "Unseen 2"):
        add_cube(shot_scene, name, location=(0, -30, 0))
    (found,) = [one for one in api.check_shot(shot_scene).findings if one.code == "scene.off_screen"]
    assert found.level == "note" and found.objects == ("Unseen 2", "Ünseen 1")
    assert found.words == "2 objects that render never come into view in the shot." and found.remedy
    assert bpy.ops.das.check_shot() == {"FINISHED"}
    place = [one.code for one in last_report(shot_scene).findings].index("scene.off_screen")
    bpy.ops.das.go_to_finding(index=place)
    assert {shape.name for shape in bpy.context.selected_objects} == {"Ünseen 1", "Unseen 2"}
    bpy.data.objects.remove(bpy.data.objects["Ünseen 1"])
    (found,) = [one for one in api.check_shot(shot_scene).findings if one.code == "scene.off_screen"]
    assert found.words == "1 object that renders never comes into view in the shot."


def test_take_says_it_in_its_report_and_not_object_by_object(shot_scene, capsys):
    for number in range(5):
        add_cube(shot_scene, f"Unseen {number}", location=(0, -30, 0))
    shot_scene.das.steps = 1
    assert commands.main(["render"]) == 0
    assert "come into view" not in capsys.readouterr().out
    take = api.render_take(shot_scene)
    assert not any("into view" in note for note in take.report["notes"])
    assert len(next(one for one in take.report["findings"] if one["code"] == "scene.off_screen")["objects"]) == 5
