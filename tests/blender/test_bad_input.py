# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry and cameras that nobody meant: nothing crashes, and what is left out has a name."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.errors import SceneError
from das_blender_addon.jobs.scripting import exported_geometry
from das_blender_addon.tracking.video import render_tracking_video
from tests.blender.test_content import agreement, in_cycles
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

SIZE = (96, 64)
#: Cycles and the rasteriser decide pixel centres on an outline differently, in float32 or not.
LEAST_AGREEMENT = 0.98


@pytest.fixture
def stage(scene):
    """A camera that looks at the origin, in three frames."""
    scene.frame_end = 3
    add_camera(scene)
    return scene


def made(scene, frames=(1,)):
    """Tracking video and notes of an export of ``scene``."""
    with exported_geometry(scene, tuple(frames), SIZE, None, None, None) as geometry:
        return render_tracking_video(geometry), {note.name: note for note in geometry.notes}


def assert_covers_what_cycles_covers(scene, folder) -> np.ndarray:
    ours, truth = made(scene)[0].coverage[0], in_cycles(scene, folder) > 127
    assert truth.any() and agreement(ours, truth) > LEAST_AGREEMENT
    return ours


def add_mesh(scene, name, corners, faces):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], faces)
    return link(scene, name, mesh)


# ── Points ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_object_and_first_frame_of_points_that_are_no_numbers_are_named(stage, value):
    """They come with the second frame, in one of two objects that share a mesh by name only."""
    add_cube(stage, "Whole", location=(2, 0, 0))
    broken = add_cube(stage, "Zérbrochen")
    broken.shape_key_add(name="Basis")
    bad = broken.shape_key_add(name="Bad")
    bad.data[0].co = (value, 0, 0)
    key(bad, "value", {1: 0.0, 2: 1.0, 3: 1.0})
    if not np.isfinite(value):  # 0 times it is none, either: it is there only where it counts
        key(bad, "mute", {1: True, 2: False, 3: False})
    video, notes = made(stage, (1, 2, 3))
    assert set(notes) == {"Zérbrochen"} and notes["Zérbrochen"].code == "no_number"
    assert "first at frame 2:" in notes["Zérbrochen"].sentence
    assert video.coverage[0].sum() > video.coverage[1].sum() > 0
    (found,) = [one for one in api.check_shot(stage).findings if one.code == "scene.no_number"]
    assert found.level == "warning" and found.objects == ("Zérbrochen",) and found.remedy


def test_no_point_is_a_number(stage):
    broken = add_cube(stage, "Broken")
    add_cube(stage, "Whole", location=(2, 0, 0))
    before = made(stage)[0].coverage.sum()
    broken.data.vertices.foreach_set("co", np.full(24, np.nan, np.float32))
    video, notes = made(stage)
    assert 0 < video.coverage.sum() < before and notes["Broken"].code in ("no_number", "off_screen")


def test_instances_of_a_broken_mesh_are_named_by_it_once(stage):
    broken = add_cube(stage, "Broken")
    broken.data.vertices[3].co.x = np.nan
    link(stage, "Twin", broken.data).location = (2, 0, 0)
    assert {name for name, note in made(stage, (1, 2))[1].items() if note.code == "no_number"} == {"Broken", "Twin"}


# ── Meshes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mesh_that_is_no_solid_is_drawn_as_cycles_draws_it(stage, tmp_path):
    """Three faces at one edge, a face twice, one that is turned over, one without area, loose edges and points."""
    corners = [(0, 0, -1), (0, 0, 1), (1, 0, -1), (1, 0, 1), (-1, 0.5, -1), (-1, 0.5, 1)]
    corners += [(0.5, -1, -0.4), (0.5, -1, 0.4)]
    faces = [(0, 2, 3, 1), (0, 4, 5, 1), (1, 0, 6, 7), (0, 2, 3, 1), (1, 5, 4, 0)]
    corners += [(3, 0, 0), (3, 0, 0), (3, 0, 1), (-3, 0, 0)]
    shape = add_mesh(stage, "No Solid", corners, [*faces, (8, 9, 10)])
    shape.data.edges.add(1)
    shape.data.edges[-1].vertices = (11, 0)
    assert_covers_what_cycles_covers(stage, tmp_path)


def test_bow_tie_and_concave_faces_are_drawn_as_cycles_draws_them(stage, tmp_path):
    tie = [(-2, 0, -1), (-1, 0, 1), (-2, 0, 1), (-1, 0, -1)]
    arrow = [(0, 0, -1), (1.5, 0, 0.2), (0, 0, 1), (0.4, 0, 0)]
    add_mesh(stage, "Tie", tie, [(0, 1, 2, 3)])
    add_mesh(stage, "Arrow", arrow, [(0, 1, 2, 3)])
    assert_covers_what_cycles_covers(stage, tmp_path)


def test_mirrored_and_flattened_objects_are_drawn_as_cycles_draws_them(stage, tmp_path):
    for number, scale in enumerate([(-1, 1, 1), (-1, -1, -1), (1, 1, -0.5), (0, 1, 1), (1, 1, 1e-9)]):
        cube = add_cube(stage, f"Cube {number}", size=0.8, location=(number - 2, 0, 0))
        cube.scale, cube.rotation_euler = scale, (0.3, 0.2, 0.4)
    assert_covers_what_cycles_covers(stage, tmp_path)


def test_meshes_without_faces_and_objects_without_a_mesh_are_nothing(stage):
    add_cube(stage, "Whole")
    before = made(stage)[0]
    add_mesh(stage, "Nothing", [], [])
    add_mesh(stage, "Points", [(0, -2, 0), (0, -2, 1)], [])
    link(stage, "Curve", bpy.data.curves.new("Curve", "CURVE"))
    link(stage, "Empty Text", bpy.data.curves.new("Text", "FONT")).data.body = ""
    link(stage, "Metaball", bpy.data.metaballs.new("Metaball"))
    video, notes = made(stage)
    np.testing.assert_array_equal(video.video, before.video)
    assert notes == {}


def test_scene_of_meshes_without_faces_only_says_that_nothing_is_in_view(stage):
    add_mesh(stage, "Points", [(0, 0, 0), (0, 0, 1)], [])
    with pytest.raises(SceneError, match="No surface is in view"):
        made(stage)
    assert [one.code for one in api.check_shot(stage).findings][0] == "shot.empty"


@pytest.mark.any_blender
def test_curve_of_a_million_segments(stage):
    """Without thickness it is in no render; as hair it is drawn."""
    along = np.linspace(-2, 2, 1_000_001)
    places = np.stack([along, np.zeros_like(along), 0.5 * np.sin(5 * along)], axis=1).astype(np.float32)
    curve = bpy.data.curves.new("Long", "CURVE")
    curve.dimensions = "3D"
    line = curve.splines.new("POLY")
    line.points.add(len(along) - 1)
    line.points.foreach_set("co", np.pad(places, ((0, 0), (0, 1)), constant_values=1).ravel())
    link(stage, "Long", curve)
    hair = bpy.data.hair_curves.new("Hair")
    hair.add_curves([len(along)])
    hair.attributes["position"].data.foreach_set("vector", places.ravel())
    hair.attributes.new("radius", "FLOAT", "POINT").data.foreach_set("value", np.full(len(along), 0.05, np.float32))
    link(stage, "Hair", hair)
    covered = made(stage)[0].coverage[0]
    columns = np.flatnonzero(covered.any(axis=0))
    assert np.ptp(columns) > 50 and covered[:, columns[0] : columns[-1] + 1].any(axis=0).all()
    bpy.data.objects.remove(bpy.data.objects["Hair"])
    with pytest.raises(SceneError, match="No surface is in view"):
        made(stage)


# ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("only", [1, 2, 3])
def test_object_that_is_there_for_one_frame_is_drawn_in_it_alone(stage, only):
    add_cube(stage, "Always", location=(-2, 0, 0))
    guest = add_cube(stage, "Guest", location=(2, 0, 0))
    key(guest, "hide_render", {frame: frame != only for frame in (1, 2, 3)})
    video, notes = made(stage, (1, 2, 3))
    right = video.coverage[:, :, SIZE[0] // 2 :].any(axis=(1, 2))
    assert right.tolist() == [frame == only for frame in (1, 2, 3)] and notes == {}
    coloured = video.video[only - 1, :, SIZE[0] // 2 :].any()
    assert bool(coloured) is (only == 1), "what was not there in the first frame has no place in it"
    assert {one.code for one in api.check_shot(stage).findings if one.level == "error"} == set()


# ── Cameras ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_camera_inside_of_meshes_sees_what_cycles_sees(stage, tmp_path):
    """Its near plane opens the nearest cube; through a hole in the room the sky is seen."""
    stage.camera.data.clip_start = 0.4
    place = stage.camera.location
    add_cube(stage, "Helmet", size=0.5, location=place)
    room = add_cube(stage, "Room", size=20.0, location=place)
    room.rotation_euler = (0.1, 0.2, 0.3)
    add_cube(stage, "Thing")
    assert assert_covers_what_cycles_covers(stage, tmp_path).all()
    room.data.clear_geometry()
    room.data.from_pydata([(-9, 9, -9), (9, 9, -9), (9, 9, 1)], [], [(0, 1, 2)])
    assert 0.1 < assert_covers_what_cycles_covers(stage, tmp_path).mean() < 0.9


def test_planes_of_the_camera_cut_meshes_as_cycles_cuts_them(stage, tmp_path):
    stage.camera.data.clip_start, stage.camera.data.clip_end = 7.0, 9.0
    floor = add_grid(stage, "Floor", size=30.0, location=(0, 0, -0.5))
    floor.rotation_euler = (0.05, 0.3, 0)
    assert 0.0 < assert_covers_what_cycles_covers(stage, tmp_path).mean() < 0.5


def test_camera_whose_planes_leave_nothing_between_says_that_nothing_is_in_view(stage):
    add_cube(stage, "Thing")
    stage.camera.data.clip_start, stage.camera.data.clip_end = 20.0, 10.0
    with pytest.raises(SceneError, match="No surface is in view"):
        made(stage)


@pytest.mark.parametrize(
    "values",
    [
        {"lens": 1e9}, {"lens": 1e-9}, {"sensor_width": 1e-9}, {"shift_x": 1e6}, {"clip_start": 0.0},
        {"clip_end": 1e30}, {"type": "ORTHO", "ortho_scale": 0.0}, {"type": "ORTHO", "ortho_scale": 1e30},
        {"type": "ORTHO", "ortho_scale": -3.0},
    ],
    ids=str,
)  # fmt: skip
def test_odd_values_of_a_camera_are_drawn_or_refused_by_a_sentence(stage, values):
    add_cube(stage, "Thing")
    for name, value in values.items():
        setattr(stage.camera.data, name, value)
    for run in (lambda: made(stage), lambda: api.check_shot(stage)):
        try:
            with np.errstate(all="ignore"):
                run()
        except SceneError as error:
            told = ("No surface is in view", "'Camera' has an orthographic scale of 0")
            assert any(words in error.message for words in told)
