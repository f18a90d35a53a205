# SPDX-License-Identifier: GPL-3.0-or-later
"""One view of a stereoscopic scene, chosen by its name: what is tracked is what Cycles renders of that view."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import SceneError
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.protocol.png import alpha_of_png
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from das_blender_addon.ui import panels
from tests.blender.test_content import agreement
from tests.blender.test_panels import words
from tests.support.scenes import add_camera, add_cube, key

SIZE = (96, 64)
#: Cycles and the rasteriser decide pixel centres on an outline differently, in float32 or not.
LEAST_AGREEMENT = 0.97


@pytest.fixture
def stage(scene):
    """Cubes near and far, seen by a pair of eyes that are far from each other."""
    camera = add_camera(scene, location=(0.5, -8.0, 1.0))
    camera.data.stereo.interocular_distance, camera.data.stereo.convergence_distance = 1.6, 6.0
    for number, place in enumerate([(-2.0, 1.0, 0.3), (0.4, -2.5, 0.2), (2.2, 2.0, -0.6), (0.0, 8.0, 1.0)]):
        add_cube(scene, f"Cube {number}", location=place).rotation_euler = (0.3 * number, 0.2, 0.4)
    scene.frame_end = 2
    scene.render.use_multiview = True
    return scene


def in_cycles(scene, folder) -> dict[str, np.ndarray]:
    """[H,W] bool: where each view of ``scene`` shows something, as Cycles renders all of them."""
    render = scene.render
    engine = render.engine
    render.engine, render.film_transparent = "CYCLES", True
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 0.01
    settings = render.image_settings
    settings.file_format, settings.color_mode, settings.views_format = "PNG", "RGBA", "INDIVIDUAL"
    render.filepath = str(folder / "view")
    bpy.ops.render.render(write_still=True)
    render.engine, render.film_transparent = engine, False
    views = [view for view in render.views if view.use]
    return {view.name: alpha_of_png((folder / f"view{view.file_suffix}.png").read_bytes()) > 127 for view in views}


def tracked(scene, view: str) -> np.ndarray:
    scene.das.stereo_view = view
    return api.export_tracking(scene, frames=[1]).coverage[0]


def assert_views_are_those_of_cycles(scene, folder) -> None:
    truth = in_cycles(scene, folder)
    assert len(truth) >= 2 and agreement(*list(truth.values())[:2]) < 0.8, "the eyes see different pictures"
    for name, picture in truth.items():
        assert agreement(tracked(scene, name), picture) > LEAST_AGREEMENT, name


@pytest.mark.parametrize("pivot", ["CENTER", "LEFT", "RIGHT"])
@pytest.mark.parametrize("mode", ["OFFAXIS", "PARALLEL", "TOE"])
def test_each_eye_of_a_pair_sees_what_cycles_renders_for_it(stage, tmp_path, mode, pivot):
    stereo = stage.camera.data.stereo
    stereo.convergence_mode, stereo.pivot = mode, pivot
    assert_views_are_those_of_cycles(stage, tmp_path)


@pytest.mark.parametrize("values", [{"sensor_fit": "VERTICAL", "shift_x": 0.1}, {"type": "ORTHO", "ortho_scale": 7.0}])
def test_other_lenses_have_eyes_too(stage, tmp_path, values):
    for name, value in values.items():
        setattr(stage.camera.data, name, value)
    stage.camera.scale = (2.0, 2.0, 2.0)
    assert_views_are_those_of_cycles(stage, tmp_path)


def test_view_of_a_camera_of_its_own_is_that_cameras(stage, tmp_path):
    """Cameras are found by the endings of their names, whichever of them is the scene's."""
    stage.render.views_format = "MULTIVIEW"
    views = stage.render.views
    views["left"].camera_suffix, views["right"].camera_suffix = "_L", "_R"
    top = views.new("Überblick")
    top.camera_suffix, top.file_suffix = "_Ü", "_top"
    stage.camera.name = "Cam_R"
    add_camera(stage, "Cam_L", location=(-3, -6, 1))
    add_camera(stage, "Cam_Ü", location=(0, -5, 6)).data.lens = 30.0
    for camera in ("Cam_R", "Cam_L"):
        stage.camera = bpy.data.objects[camera]
        assert_views_are_those_of_cycles(stage, tmp_path)


def test_child_blender_sees_the_same_eye(stage):
    key(stage.camera, "location", {1: (0.5, -8.0, 1.0), 2: (1.0, -8.0, 1.0)})
    stage.das.stereo_view, stage.camera.data.stereo.pivot = "right", "CENTER"
    found = []
    for in_child in (True, False):
        source = source_of(stage, stage.view_layers[0].name, in_child=in_child)
        try:
            found.append(drive.finish(source.export((1, 2), SIZE, lambda *_: None)).cameras)
        finally:
            source.close()
    np.testing.assert_array_equal(found[0].camera_from_world, found[1].camera_from_world)
    np.testing.assert_array_equal(found[0].principal_px, found[1].principal_px)
    stage.render.use_multiview = False
    source = source_of(stage, stage.view_layers[0].name)
    try:
        middle = drive.finish(source.export((1, 2), SIZE, lambda *_: None)).cameras
    finally:
        source.close()
    np.testing.assert_allclose((found[0].camera_from_world - middle.camera_from_world)[:, 0, 3], -0.8, atol=1e-5)


def test_view_must_be_chosen_and_there(shot_scene, capsys):
    shot_scene.render.use_multiview = True
    said = [one for one in api.check_shot(shot_scene).findings if one.level == "error"]
    assert len(said) == 1 and "choose 'left' or 'right' as View" in said[0].words
    with pytest.raises(SceneError, match="a take has one view only"):
        api.render_take(shot_scene)
    shot_scene.das.stereo_view = "middle"
    with pytest.raises(SceneError, match="there is no view 'middle'"):
        api.render_take(shot_scene)
    assert commands.main(["check", "--view", "left"]) == 0
    shot_scene.render.views["left"].use = False
    assert commands.main(["check", "--view", "left"]) == SceneError.exit_code


@pytest.mark.any_blender
def test_take_is_that_of_its_view_and_blenders_own_render_is_told_of_it(shot_scene, capfd):
    shot_scene.das.steps = 1
    assert "stereo_view" not in words(panels.DAS_PT_window)
    shot_scene.render.use_multiview = True
    shot_scene.camera.data.stereo.interocular_distance, shot_scene.camera.data.stereo.pivot = 1.0, "CENTER"
    keys = set()
    for view in ("left", "right"):
        shot_scene.das.stereo_view = view
        keys.add(api.render_take(shot_scene, frames=[1]).key)
    assert len(keys) == 2
    assert resolve_settings(shot_scene, {"DAS_VIEW": "left"}).view == "left"
    assert resolve_settings(shot_scene, {}).view == "right"
    assert "stereo_view" in words(panels.DAS_PT_window)
    shot_scene.render.engine = "DAS"
    with pytest.raises(RuntimeError, match="use Render Take or das render"):
        bpy.ops.render.render()
