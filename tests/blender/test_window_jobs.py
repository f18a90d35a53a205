# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs of a window, which are about a copy: the user's session is never touched, whatever its user does meanwhile does
not change what comes out, and what the user sees is what is sent.
"""

import tempfile

import bmesh
import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.errors import SceneError
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.take import drive, recent
from das_blender_addon.take.key_recipes import Suggested
from das_blender_addon.ui import job_operators, key_buttons, saving
from tests.blender.test_first_frame import glowing
from tests.support.children import scratch_folders
from tests.support.scenes import add_cube, add_grid
from tests.support.snapshot import differences, snapshot, undo_steps
from tests.support.window import (
    JOBS,
    press,
    recipe_of,
    shown,
    tick_to_line,
    tick_to_the_end,
    tick_until,
)

pytestmark = pytest.mark.usefixtures("one_status_a_tick")
SIZE = (96, 64)
LAST = 9


@pytest.fixture
def worked_on(shot_scene, tmp_path):
    """A session in the middle of somebody's work: a pose without a key, Edit Mode with a selection and a vertex that
    was moved, undo steps, a painted picture, a changed text, hidden things, a frame between two frames.
    """
    scene = shot_scene
    scene.das.cache_folder = str(tmp_path / "cache")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    for name, attribute in (("Viewport", "hide_viewport"), ("Render", "hide_render")):
        setattr(add_cube(scene, name, size=0.3, location=(0.0, 2.0, 1.0)), attribute, True)
    add_cube(scene, "Eye", size=0.3, location=(0.0, 2.0, -1.0)).hide_set(True)
    cube, edited = scene.objects["Cube"], add_grid(scene, "Edited", cells=2)
    edited.location.y = 1.0
    image = bpy.data.images.new("Painted", 8, 8)
    cube.data.materials[0].node_tree.nodes.new("ShaderNodeTexImage").image = image
    image.pixels.foreach_set(np.linspace(0.0, 1.0, 256, dtype=np.float32))
    file = tmp_path / "notes.txt"
    file.write_text("saved")
    bpy.data.texts.load(str(file)).write("changed ")
    scene.frame_set(3, subframe=0.25)
    bpy.ops.ed.undo_push(message="one")
    scene.das.prompt = "a cube"
    bpy.ops.ed.undo_push(message="two")
    cube.select_set(True)
    bpy.context.view_layer.objects.active = edited
    bpy.ops.object.mode_set(mode="EDIT")
    shape = bmesh.from_edit_mesh(edited.data)
    for index, vertex in enumerate(shape.verts):
        vertex.select_set(index % 3 == 0)
    shape.verts.ensure_lookup_table()
    shape.verts[4].co.z += 0.25
    bmesh.update_edit_mesh(edited.data)
    bpy.ops.ed.undo_push(message="three")
    cube.location, cube.scale = (0.7, 0.3, 0.1), (1.0, 1.2, 1.0)
    bpy.context.view_layer.update()
    return scene


# ── The session is never touched ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", JOBS)
def test_job_changes_nothing_of_the_session_at_any_time(worked_on, name, tmp_path):
    assert undo_steps().count("name='three'") == 1 and bpy.context.mode == "EDIT_MESH"
    assert bpy.data.images["Painted"].is_dirty and worked_on.frame_subframe == 0.25
    before = snapshot(worked_on)
    recipe, statuses = recipe_of(name, worked_on, tmp_path / "clips"), []
    try:
        assert differences(before, snapshot(worked_on)) == {}, "writing the copy"
        while True:
            try:
                status = drive.advance(recipe, lambda: False, lambda _status: None)
            except StopIteration:
                break
            assert differences(before, snapshot(worked_on)) == {}, status
            statuses.append(status)
    finally:
        recipe.close()
    stages = {status.stage for status in statuses if status is not None}
    assert "exporting" in stages and len(stages) > 1
    assert differences(before, snapshot(worked_on)) == {}


def test_undo_after_a_job_brings_back_what_it_would_have_without(worked_on, tmp_path):
    steps = undo_steps()
    tick_to_the_end(press("preview", worked_on))
    assert shown().job_state == "DONE" and undo_steps() == steps
    bpy.ops.ed.undo()
    assert (bpy.context.scene.das.prompt, bpy.context.mode) == ("a cube", "OBJECT")
    bpy.ops.ed.undo()
    assert (bpy.context.scene.das.prompt, bpy.context.mode) == ("", "OBJECT")
    bpy.ops.ed.redo()
    bpy.ops.ed.redo()
    edited = bpy.data.objects["Edited"]
    assert (bpy.context.scene.das.prompt, bpy.context.mode) == ("a cube", "EDIT_MESH")
    shape = bmesh.from_edit_mesh(edited.data)
    assert [vertex.select for vertex in shape.verts] == [index % 3 == 0 for index in range(9)]
    shape.verts.ensure_lookup_table()
    assert shape.verts[4].co.z == 0.25


def test_copy_calls_no_handler_of_saving_and_is_no_recent_file(shot_scene, tmp_path):
    called = []
    handlers = [getattr(bpy.app.handlers, name) for name in ("save_pre", "save_post")]
    before = [list(functions) for functions in handlers]
    note = lambda *words: called.append(words)  # noqa: E731
    for functions in handlers:
        functions.append(note)
    try:
        recipe_of("preview", shot_scene, tmp_path).close()
        assert not called
        assert [list(functions) for functions in handlers] == [[*functions, note] for functions in before]
    finally:
        for functions in handlers:
            functions.remove(note)
    assert bpy.data.filepath == ""


# ── What the user sees is what is sent ──────────────────────────────────────────────────────────────────────────────


def exported(scene, frames, *, in_child=True):
    """Vertices and triangles of every frame, as arrays."""
    source = source_of(scene, scene.view_layers[0].name, in_child=in_child)
    try:
        geometry = drive.finish(source.export(tuple(frames), SIZE, lambda *_: None))
        return np.asarray(geometry.vertices), geometry.triangles
    finally:
        source.close()


def on_screen(shape) -> np.ndarray:
    """World-space corners [N,3] of an object that has no modifiers, where the user sees them."""
    bpy.context.view_layer.update()
    matrix = np.array(shape.matrix_world, np.float64)
    if shape.data.is_editmode:
        corners = np.array([vertex.co for vertex in bmesh.from_edit_mesh(shape.data).verts])
    else:
        corners = np.array([vertex.co for vertex in shape.data.vertices])
    return corners @ matrix[:3, :3].T + matrix[:3, 3]


def test_pose_on_screen_is_exported_where_nothing_is_keyed(shot_scene):
    shot_scene.objects["Cube"].animation_data_clear()
    shot_scene.frame_set(4)
    cube = shot_scene.objects["Cube"]
    cube.location, cube.rotation_euler = (0.3, -0.2, 0.1), (0.1, 0.2, 0.3)
    expected = on_screen(cube)
    vertices, _ = exported(shot_scene, [1, 5])
    np.testing.assert_allclose(vertices, np.stack([expected] * 2), atol=1e-6)


@pytest.mark.parametrize("levels", [0, 2])
def test_edits_of_edit_mode_are_exported_as_a_render_shows_them(shot_scene, levels):
    """Render levels, and every modifier that renders, whatever Edit Mode shows of it."""
    bpy.data.objects.remove(shot_scene.objects["Cube"])
    edited = add_grid(shot_scene, "Edited", cells=2)
    edited.rotation_euler.x = 1.0
    if levels:
        modifier = edited.modifiers.new("Smooth", "SUBSURF")
        modifier.levels, modifier.render_levels, modifier.show_in_editmode = 1, levels, False
    bpy.context.view_layer.objects.active = edited
    bpy.ops.object.mode_set(mode="EDIT")
    shape = bmesh.from_edit_mesh(edited.data)
    shape.verts.ensure_lookup_table()
    shape.verts[4].co.z += 0.5
    bmesh.update_edit_mesh(edited.data)
    expected = on_screen(edited)
    vertices, triangles = exported(shot_scene, [1, 2])
    assert bpy.context.mode == "EDIT_MESH"
    assert len(triangles) == 8 * 4**levels
    if not levels:
        np.testing.assert_allclose(vertices[0], expected, atol=1e-6)
    bpy.ops.object.mode_set(mode="OBJECT")
    again, _ = exported(shot_scene, [1, 2], in_child=False)
    np.testing.assert_array_equal(vertices, again)


def textured(image):
    """A material that shines in the colours of ``image``."""
    material = glowing((0.0, 0.0, 0.0))
    tree = material.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image, texture.interpolation = image, "Closest"
    emission = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeEmission")
    tree.links.new(texture.outputs["Color"], emission.inputs["Color"])
    return material


def image_of(kind: str, folder):
    """A black image that is all green since its user painted it, which no file has yet."""
    image = bpy.data.images.new("Painted", 4, 4, float_buffer=kind == "float")
    if kind not in ("generated", "float"):
        image.filepath_raw, image.file_format = str(folder / "painted.png"), "PNG"
        image.save()
        assert image.source == "FILE"
    if kind == "packed":
        image.pack()
    if kind == "scaled":
        image.scale(8, 2)
    image.pixels.foreach_set(np.tile(np.float32([0.0, 1.0, 0.0, 1.0]), image.size[0] * image.size[1]))
    assert image.is_dirty
    return image


@pytest.mark.parametrize("kind", ["file", "generated", "float", "packed", "scaled"])
def test_unsaved_strokes_are_in_the_first_frame(shot_scene, tmp_path, kind):
    cube = shot_scene.objects["Cube"]
    cube.data.materials.clear()
    cube.data.materials.append(textured(image_of(kind, tmp_path)))
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    picture = decode_png(drive.finish(recipe_of("first frame", shot_scene, tmp_path)).png).astype(int)
    assert (picture[..., 1] - picture[..., 0] > 200).sum() > 300
    assert bpy.data.images["Painted"].is_dirty


def test_tiled_image_with_unsaved_strokes_is_named(shot_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no other process makes folders
    image = bpy.data.images.new("Tiles", 4, 4, tiled=True)
    image.pixels.foreach_set(np.ones(64, np.float32))
    shot_scene.objects["Cube"].data.materials.append(textured(image))
    with pytest.raises(SceneError, match="'Tiles' has unsaved changes"):
        recipe_of("preview", shot_scene, tmp_path)
    assert scratch_folders() == []


# ── What may come between a job and its end ─────────────────────────────────────────────────────────────────────────


def undo(scene, folder):
    bpy.ops.ed.undo()


def undo_and_redo(scene, folder):
    bpy.ops.ed.undo()
    bpy.ops.ed.redo()
    bpy.context.scene.das.prompt = "yet another"


def save(scene, folder):
    scene.das.prompt = "saved"
    bpy.ops.wm.save_as_mainfile(filepath=bpy.data.filepath)


def change_everything(scene, folder):
    scene.frame_end, scene.das.prompt, scene.das.seed = 4, "changed", 7
    bpy.data.objects.remove(scene.objects["Cube"])
    scene.camera.location.z += 1.0


def render_with_cycles(scene, folder):
    scene.render.engine, scene.cycles.samples = "CYCLES", 1
    bpy.ops.render.render()


def render_with_the_engine(scene, folder):
    """Its own window of frames, its own seed: another take than the job's."""
    scene.das.seed, scene.frame_end = 3, 2
    bpy.ops.render.render()


OF_ANY_BLENDER = (undo, save, change_everything, render_with_the_engine)
MEANWHILE = [
    pytest.param(happens, id=happens.__name__, marks=[pytest.mark.any_blender] if happens in OF_ANY_BLENDER else [])
    for happens in (undo, undo_and_redo, save, change_everything, render_with_cycles, render_with_the_engine)
]


@pytest.fixture
def pressed(shot_scene, tmp_path):
    """Render Take of a saved file was pressed just now; the session has undo steps."""
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    bpy.ops.ed.undo_push(message="before")
    shot_scene.das.prompt, shot_scene.frame_end = "when it was pressed", 5
    bpy.ops.ed.undo_push(message="after")
    return press("take", shot_scene)


def assert_is_the_take_of_the_press(take) -> None:
    assert take.report["prompt"] == "when it was pressed" and take.frame_numbers == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("stage", ["Exporting frame", pytest.param("First frame", marks=pytest.mark.any_blender)])
@pytest.mark.parametrize("happens", MEANWHILE)
def test_take_is_that_of_the_press_whatever_happens_meanwhile(pressed, happens, stage, tmp_path):
    tick_to_line(pressed, stage)
    happens(bpy.context.scene, tmp_path)
    tick_to_the_end(pressed)
    assert shown().job_state == "DONE" and "Take of 5 frames" in shown().job_line
    assert_is_the_take_of_the_press(recent.last_take(bpy.context.scene))


@pytest.mark.any_blender
def test_take_of_a_job_is_found_again_by_a_render(pressed, shot_scene):
    tick_to_the_end(pressed)
    made = recent.last_take(shot_scene)
    take = api.render_take(shot_scene)
    assert take.cached and take.key == made.key and take.folder == made.folder


@pytest.mark.any_blender
@pytest.mark.parametrize("name", ["take", "first frame"])
@pytest.mark.parametrize("cache", ["beside the file", "one for all"])
def test_result_is_found_again_after_save_as_in_the_middle(shot_scene, tmp_path, name, cache):
    """What was made for the file under its old name belongs to the one that is open."""
    shot_scene.das.cache_folder = "" if cache == "beside the file" else str(tmp_path / "cache")
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a" / "work.blend"))
    job = press(name, shot_scene)
    tick_to_line(job, "First frame")
    saving.begin_saving()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "work.blend"))
    saving.end_saving()
    tick_to_the_end(job)
    assert shown().job_state == "DONE"
    folder = api.shot_folder(shot_scene, tmp_path / ("b/das_cache" if not shot_scene.das.cache_folder else "cache"))
    assert api.first_frame_state(folder, 1) == "rendered"
    if name == "take":
        take = api.render_take(shot_scene)
        assert take.cached and take.folder.is_relative_to(folder)


@pytest.mark.any_blender
def test_removed_scene_does_not_end_its_take(pressed, shot_scene):
    tick_to_line(pressed, "Exporting frame")
    other = bpy.data.scenes.new("Other")
    bpy.data.scenes.remove(shot_scene)
    tick_to_the_end(pressed)
    assert shown().job_state == "DONE" and recent.last_take(other) is None


@pytest.mark.any_blender
@pytest.mark.parametrize("stage", ["Exporting frame", "First frame"])
def test_take_is_not_given_to_a_scene_of_the_same_name_in_another_file(pressed, stage, tmp_path):
    tick_to_line(pressed, stage)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert bpy.context.scene.name == "Scene" and pressed.is_running
    tick_to_the_end(pressed)
    assert shown().job_state == "DONE" and "of the file that was open before" in shown().job_line
    assert recent.last_take(bpy.context.scene) is None
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "work.blend"))
    scene = bpy.context.scene
    scene.das.prompt, scene.frame_end = "when it was pressed", 5
    assert api.render_take(scene).cached, "it is on the disk"


@pytest.mark.any_blender
def test_job_is_that_of_the_press_also_for_a_scene_that_is_renamed(pressed, shot_scene):
    tick_to_line(pressed, "Exporting frame")
    shot_scene.name = "Another name"
    tick_to_the_end(pressed)
    assert shown().job_state == "DONE"


@pytest.mark.any_blender
def test_result_reaches_its_scene_whatever_that_is_called_by_then(shot_scene):
    shot_scene.das.key_mode = "LIST"
    shown_at_end = job_operators.shown_in_window(key_buttons.DAS_OT_suggest_key_pictures, shot_scene)[1]
    shot_scene.name = "Another name"
    bpy.data.scenes.new("Scene")
    found = Suggested((1, 5), (1, 5), np.zeros(2, np.float32), np.zeros(2, np.float32))
    shown_at_end(found, None)
    assert [key.frame for key in shot_scene.das.key_pictures] == [5]
    assert not bpy.data.scenes["Scene"].das.key_pictures


def test_exported_frames_are_counted_one_by_one(shot_scene, tmp_path):
    lines = []
    shot_scene.das.cache_folder = str(tmp_path)
    job = press("preview", shot_scene)
    tick_until(job, lambda: lines.append(shown().job_line))
    assert [line for line in dict.fromkeys(lines) if line.startswith("Exporting")] == [
        f"Exporting frame {number}/{LAST}" for number in range(1, LAST + 1)
    ]
    written = [decode_png(path.read_bytes()) for path in sorted(tmp_path.glob("*/tracking_preview/*.png"))]
    np.testing.assert_array_equal(np.stack(written), api.export_tracking(shot_scene).video)
