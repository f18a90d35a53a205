# SPDX-License-Identifier: GPL-3.0-or-later
"""Python drivers: a file whose scripts are not trusted is refused by name rather than sent with a rig that stands
wrong; in a trusted one they run, also in the child Blender.
"""

import os
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.errors import SceneError, ScriptsDisabled
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.scene.drivers import check_names, handlers_of_session, names_of_drivers
from das_blender_addon.shot.scene_findings import findings_of_scene
from das_blender_addon.take import drive
from tests.support.scenes import add_camera, add_cube

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 64)
PYTHON = "float(str(frame)) * 0.25"
SIMPLE = "frame * 0.25"
LIMIT_S = 120.0


def drive_by(owner, path: str, expression: str, index: int = -1) -> None:
    owner.driver_add(path, index).driver.expression = expression


def on_object(cube, expression):
    drive_by(cube, "location", expression, 0)


def on_shape_keys(cube, expression):
    cube.shape_key_add(name="Basis")
    cube.shape_key_add(name="Raised").data[0].co.z += 2.0
    drive_by(cube.data.shape_keys.key_blocks["Raised"], "value", expression)


def on_modifier(cube, expression):
    cube.modifiers.new("Array", "ARRAY").use_constant_offset = True
    drive_by(cube, 'modifiers["Array"].constant_offset_displace', expression, 0)


def on_lens(cube, expression):
    drive_by(bpy.context.scene.camera.data, "shift_x", expression)


def on_material(cube, expression):
    material = bpy.data.materials.new("Driven")
    if material.node_tree is None:
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    drive_by(shader.inputs["Roughness"], "default_value", expression)
    cube.data.materials.append(material)


PLACES = {on_object: "'Cube'", on_shape_keys: "'Cube'", on_modifier: "'Cube'", on_lens: "'Camera'"}


@pytest.fixture
def rig(blank_scene):
    scene = blank_scene
    scene.frame_start, scene.frame_end = 1, 9
    add_camera(scene)
    return add_cube(scene)


def opened(file: Path, *, trusted: bool):
    """The scene of a file that is saved, closed and opened again."""
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    bpy.ops.wm.open_mainfile(filepath=str(file), use_scripts=trusted)
    return bpy.context.scene


def exported(scene, in_child: bool):
    source = source_of(scene, scene.view_layers[0].name, in_child=in_child)
    try:
        geometry = drive.finish(source.export((1, 9), SIZE, lambda *_: None))
        return np.asarray(geometry.vertices), geometry.cameras
    finally:
        source.close()


@pytest.mark.parametrize("in_child", [False, True])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_driver_that_does_not_run_is_named(rig, tmp_path, place, in_child):
    place(rig, PYTHON)
    scene = opened(tmp_path / "rig.blend", trusted=False)
    with pytest.raises(SceneError, match=f"The Python driver of {PLACES[place]} ") as refused:
        exported(scene, in_child)
    assert "--enable-autoexec" in refused.value.message and refused.value.field == "autoexec"
    assert repr(PYTHON) in refused.value.message


def test_driver_of_a_material_is_named(rig, tmp_path):
    on_material(rig, PYTHON)
    scene = opened(tmp_path / "rig.blend", trusted=False)
    with pytest.raises(SceneError, match="The Python driver of 'Driven'"):
        exported(scene, False)


@pytest.mark.parametrize("in_child", [False, True])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_driver_of_a_trusted_file_runs(rig, tmp_path, place, in_child):
    place(rig, PYTHON)
    vertices, cameras = exported(opened(tmp_path / "rig.blend", trusted=True), in_child)
    moved = cameras.principal_px if place is on_lens else vertices
    assert np.abs(moved[1] - moved[0]).max() > 0.5


def test_driver_that_was_never_saved_runs_in_the_child(rig, tmp_path):
    scene = opened(tmp_path / "rig.blend", trusted=True)
    on_object(scene.objects["Cube"], PYTHON)
    vertices, _ = exported(scene, True)
    np.testing.assert_allclose(vertices[1] - vertices[0], [[2.0, 0.0, 0.0]] * 8, atol=1e-6)


@pytest.mark.parametrize("in_child", [False, True])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_simple_expression_never_fails(rig, tmp_path, place, in_child):
    place(rig, SIMPLE)
    scene = opened(tmp_path / "rig.blend", trusted=False)
    assert not bpy.app.autoexec_fail
    vertices, cameras = exported(scene, in_child)
    moved = cameras.principal_px if place is on_lens else vertices
    assert np.abs(moved[1] - moved[0]).max() > 0.5


def test_script_of_the_file_is_no_driver(rig, tmp_path):
    """A registered text that does not run is not the shot's business."""
    on_object(rig, SIMPLE)
    text = bpy.data.texts.new("registers.py")
    text.write("import bpy\nbpy.context.scene['ran'] = 1\n")
    text.use_module = True
    scene = opened(tmp_path / "rig.blend", trusted=False)
    assert "ran" not in scene and bpy.app.autoexec_fail
    assert api.export_tracking(scene, frames=[1, 2], size=SIZE).coverage.any()


def test_muted_driver_is_none(rig, tmp_path):
    on_object(rig, PYTHON)
    rig.animation_data.drivers[0].mute = True
    scene = opened(tmp_path / "rig.blend", trusted=False)
    assert exported(scene, False)[0].shape == (2, 8, 3)


@pytest.mark.parametrize("in_child", [False, True])
def test_file_that_was_trusted_does_not_make_the_next_one_trusted(rig, tmp_path, in_child):
    on_object(rig, PYTHON)
    exported(opened(tmp_path / "rig.blend", trusted=True), in_child)
    with pytest.raises(SceneError, match="not trusted"):
        exported(opened(tmp_path / "rig.blend", trusted=False), in_child)


@pytest.mark.parametrize("in_child", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
def test_driver_that_only_a_render_runs(rig, tmp_path, trusted, in_child):
    """The viewport never ran it, so that Blender has not yet refused anything when the child is asked."""
    mark = tmp_path / "ran"
    on_object(rig, f"__import__('pathlib').Path({str(mark)!r}).touch() or float(str(frame)) * 0.25")
    rig.hide_viewport = True
    on_object(add_cube(rig.users_scene[0], "Seen"), PYTHON if trusted else SIMPLE)
    scene = opened(tmp_path / "rig.blend", trusted=trusted)
    assert not bpy.app.autoexec_fail and not mark.exists()
    if trusted:
        exported(scene, in_child)
    else:
        with pytest.raises(SceneError, match="The Python driver of 'Cube'"):
            exported(scene, in_child)
    assert mark.exists() is trusted


def test_command_refuses_a_file_whose_driver_does_not_run(rig, tmp_path):
    """A process of its own, as a farm starts it: scripts are off unless somebody allows them."""
    on_object(rig, PYTHON)
    file = tmp_path / "rig.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    done = subprocess.run(
        [sys.executable, "-m", "das_blender_addon", "preview", str(file), "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "BLENDER_USER_RESOURCES": str(tmp_path / "profile")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == ScriptsDisabled.exit_code, done.stderr
    assert "The Python driver of 'Cube'" in done.stderr + done.stdout


# ── What only the session knows ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def moved():
    """A function of this session, put where drivers find it."""
    bpy.app.driver_namespace["moved"] = lambda frame: frame * 0.25
    yield "moved(frame) if min(len('äß'), 3) else sin(frame)"
    bpy.app.driver_namespace.pop("moved", None)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_function_of_the_session_is_refused_by_name_where_a_second_blender_would_need_it(rig, moved, place):
    place(rig, moved)
    with pytest.raises(SceneError, match=f"The Python driver of {PLACES[place]} .* uses 'moved', which only this"):
        exported(rig.users_scene[0], True)


@pytest.mark.any_blender
def test_function_of_the_session_runs_in_the_session(rig, moved):
    on_object(rig, moved)
    vertices, _ = exported(rig.users_scene[0], False)
    np.testing.assert_allclose(vertices[1] - vertices[0], [[2.0, 0.0, 0.0]] * 8, atol=1e-6)


@pytest.mark.any_blender
def test_function_that_a_text_of_the_file_registers_travels(rig, moved, tmp_path):
    on_object(rig, moved)
    text = bpy.data.texts.new("functions.py")
    text.write("import bpy\nbpy.app.driver_namespace['moved'] = lambda frame: frame * 0.25\n")
    text.use_module = True
    vertices, _ = exported(opened(tmp_path / "rig.blend", trusted=True), True)
    np.testing.assert_allclose(vertices[1] - vertices[0], [[2.0, 0.0, 0.0]] * 8, atol=1e-6)


@pytest.mark.any_blender
def test_names_that_every_blender_knows_are_none_of_the_session(rig):
    on_object(rig, "float(str(frame)) + sin(frame) * clamp(frame) + [one for one in (1, 2)][0]")
    on_modifier(rig, "no Python (")
    names = {name for _, name in names_of_drivers()}
    assert names <= {"sin", "clamp", "frame"} and "sin" in names
    check_names([("'Cube'", name) for name in names])


@pytest.mark.any_blender
def test_handlers_of_the_session_are_told(rig, tmp_path):
    scene = rig.users_scene[0]
    assert handlers_of_session() == []

    def swing(*_):
        pass

    bpy.app.handlers.frame_change_pre.append(swing)
    try:
        (told,) = [one for one in findings_of_scene(scene, 9) if one.code == "scene.handlers"]
        assert "swing" in told.words and "a second Blender" in told.words
    finally:
        bpy.app.handlers.frame_change_pre.remove(swing)
    assert not [one for one in findings_of_scene(scene, 9) if one.code == "scene.handlers"]


@pytest.mark.any_blender
def test_handlers_of_a_registered_text_travel(rig, tmp_path):
    text = bpy.data.texts.new("swing.py")
    text.write("import bpy\ndef swing(*_): pass\nbpy.app.handlers.frame_change_post.append(swing)\n")
    text.use_module = True
    opened(tmp_path / "rig.blend", trusted=True)
    assert [one.__name__ for one in bpy.app.handlers.frame_change_post].count("swing") == 1
    assert handlers_of_session() == []
    bpy.data.texts["swing.py"].use_module = False
    assert handlers_of_session() and "swing" in handlers_of_session()[0]
