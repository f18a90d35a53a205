# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is to be known of a shot, in one list: script, command and panel."""

import json

import bpy
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import SceneError
from das_blender_addon.jobs import of_scene
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from das_blender_addon.take.last_reports import last_report
from tests.support.scenes import add_cube, link


def found(report) -> dict:
    return {finding.code: finding for finding in report.findings}


def test_report_of_an_ordinary_shot(shot_scene):
    report = api.check_shot(shot_scene)
    assert report.exit_code == 0 and report.frames == tuple(range(1, 10))
    assert report.curves.covered.min() > 0.05 and "shot.depth" in found(report)
    assert "shot.bare" in found(report), "a cube before nothing"


def test_whole_list_comes_at_once(shot_scene):
    """A camera that cannot be tracked, strips, a missing image, blur: none hides another."""
    shot_scene.camera.data.type = "PANO"
    shot_scene.camera.data.dof.use_dof = True
    shot_scene.render.use_motion_blur = True
    image = bpy.data.images.new("Lost", 4, 4)
    image.source, image.filepath, image.use_fake_user = "FILE", "//lost.png", True
    bpy.data.objects["Cube"].is_holdout = True
    report = api.check_shot(shot_scene)
    codes = found(report)
    assert report.findings[0].level == "error" and report.exit_code == SceneError.exit_code
    assert {"file.lacks", "scene.depth_of_field", "scene.motion_blur", "scene.holdout"} <= set(codes)
    assert codes["scene.holdout"].objects == ("Cube",) and report.curves is None


def test_no_camera_and_nothing_in_view_are_findings(shot_scene):
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    assert "shot.empty" in found(api.check_shot(shot_scene))
    bpy.data.objects.remove(shot_scene.camera)
    report = api.check_shot(shot_scene)
    assert "no camera" in report.findings[0].words and report.exit_code == SceneError.exit_code


def test_simulation_that_is_not_baked_is_named(shot_scene):
    cloth = add_cube(shot_scene, "Flag")
    cloth.modifiers.new("Cloth", "CLOTH")
    assert "'Flag'" in found(api.check_shot(shot_scene))["scene.unbaked"].words


def test_what_renders_and_is_not_tracked_is_named(shot_scene):
    volume = link(shot_scene, "Smoke", bpy.data.volumes.new("Smoke"))
    finding = found(api.check_shot(shot_scene))["scene.volume"]
    assert finding.objects == (volume.name,) and finding.level == "warning" and "no surface" in finding.words


@pytest.mark.parametrize("as_json", [True, False])
def test_command_says_all_of_it(shot_scene, as_json, capsys):
    shot_scene.render.use_motion_blur = True
    assert commands.main(["check", *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr().out
    if as_json:
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        done = lines[-1]
        assert {line["code"] for line in lines if line["event"] == "finding"} >= {"scene.motion_blur", "shot.depth"}
        assert done["event"] == "done" and done["exit_code"] == 0 and done["frames"] == list(range(1, 10))
        assert len(done["curves"]["covered"]) == 9
    else:
        assert "note     Motion blur does not show" in said


def test_command_ends_with_what_a_render_would(shot_scene, capsys):
    shot_scene.camera.data.type = "PANO"
    assert commands.main(["check"]) == SceneError.exit_code
    assert "error    " in capsys.readouterr().out


def test_panel_keeps_the_report_and_shows_what_it_is_about(shot_scene):
    other = add_cube(shot_scene, "Hole", location=(0.0, 3.0, 0.0))
    other.is_holdout = True
    assert bpy.ops.das.check_shot() == {"FINISHED"}
    report = last_report(shot_scene)
    places = {finding.code: place for place, finding in enumerate(report.findings)}
    assert bpy.ops.das.go_to_finding(index=places["scene.holdout"]) == {"FINISHED"}
    assert bpy.context.view_layer.objects.active == other and other.select_get()
    assert bpy.ops.das.go_to_finding(index=places["shot.bare"]) == {"FINISHED"}
    assert shot_scene.frame_current == report.findings[places["shot.bare"]].frame
    assert bpy.ops.das.go_to_finding(index=999) == {"CANCELLED"}
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert last_report(bpy.context.scene) is None


def test_preview_shows_its_pictures_first_and_then_says_what_the_check_says(shot_scene):
    other = add_cube(shot_scene, "Hole", location=(0.0, 3.0, 0.0))
    other.is_holdout = True
    came = []
    recipe = of_scene.tracking_preview(shot_scene, resolve_settings(shot_scene), on_files=came.append)
    stages = []

    def note(status):
        stages.append((status.stage, len(came)))

    made = drive.finish(recipe, on_status=note)
    assert came == [made.files] and all(file.is_file() for file in made.files)
    assert stages[-1] == ("checking", 1), "the pictures wait for the report"
    checked = api.check_shot(shot_scene)
    assert made.report.findings == checked.findings
    assert made.report.curves.covered.tolist() == checked.curves.covered.tolist()

    assert bpy.ops.das.preview_tracking() == {"FINISHED"}
    assert last_report(shot_scene).findings == checked.findings
    assert "see Shot Check" in bpy.context.window_manager.das.job_line


def test_preview_command_says_what_speaks_against_the_shot(shot_scene, capsys):
    bpy.data.objects["Cube"].is_holdout = True
    add_cube(shot_scene, "Other")
    link(shot_scene, "Smoke", bpy.data.volumes.new("Smoke"))
    assert commands.main(["preview", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    told = {line["code"]: line["level"] for line in lines if line["event"] == "finding"}
    assert told["scene.volume"] == "warning" and "note" not in told.values()
