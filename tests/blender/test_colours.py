# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours: what would change a take's pixels is told, Keep Look moves the look into the first frame, and every byte
comes back whatever the file's working space.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Color

from das_blender_addon import api, compat
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene import colours
from das_blender_addon.shot.first_frame import render_digest
from das_blender_addon.shot.pictures import first_frame_state
from tests.blender.test_first_frame import glowing
from tests.support import studio_colours
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.scenes import add_camera, add_cube
from tests.support.server import ROOT

SAMPLES = 4
LIMIT_S = 120.0
ROUNDING = 1  # of 255: a picture that went through two colour spaces in single precision
WORKING_SPACES = ["Linear Rec.2020", "ACEScg"] if hasattr(bpy.data, "colorspace") else ["Linear Rec.709"]


@pytest.fixture
def glow_scene(scene):
    """A cube that shines in one colour and fills the middle of the picture."""
    add_camera(scene)
    add_cube(scene, size=2.0).data.materials.append(glowing((0.3, 0.6, 0.2)))
    return scene


def shot_of(scene):
    plan = api.plan_shot(scene, capabilities_of(model_capability(sizes=[[96, 64]])), frames=[1])
    return api.export_shot(scene, plan)


def first_frame(scene, folder) -> np.ndarray:
    shot = shot_of(scene)
    return decode_png(api.ensure_first_frame(scene, shot, folder=folder, samples=SAMPLES).png)


def give_look(scene) -> None:
    view = scene.view_settings
    view.view_transform, view.look = "AgX", "AgX - Punchy"
    view.exposure, view.gamma, scene.render.dither_intensity = 0.7, 1.2, 1.0


def choose_working_space(name: str) -> None:
    if compat.working_space():
        bpy.ops.wm.set_working_color_space(working_space=name, convert_colors=False)
        assert compat.working_space() == name


# ── What changes the pixels ─────────────────────────────────────────────────────────────────────────────────────────


def test_plain_scene_changes_nothing(scene):
    assert colours.pixel_changes(scene) == [] and colours.colour_warning(scene) == ""
    assert not bpy.ops.das.keep_look.poll()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scene: setattr(scene.view_settings, "view_transform", "Filmic"), "The view transform Filmic changes"),
        (lambda scene: setattr(scene.view_settings, "look", "High Contrast"), "The look High Contrast changes"),
        (lambda scene: setattr(scene.view_settings, "exposure", 1.5), "The exposure 1.5 changes"),
        (lambda scene: setattr(scene.view_settings, "gamma", 2.0), "The gamma 2 changes"),
        (lambda scene: setattr(scene.view_settings, "use_curve_mapping", True), "The curves change"),
        (lambda scene: setattr(scene.display_settings, "display_device", "Display P3"), "The display Display P3"),
        (lambda scene: setattr(scene.render.image_settings, "color_management", "OVERRIDE"), "The output's own"),
        (lambda scene: setattr(scene.render, "dither_intensity", 1.0), "Dithering .1. changes"),
        (give_look, "AgX, the look AgX - Punchy, the exposure 0.7, the gamma 1.2 and dithering .1. change the"),
    ],
)
def test_every_change_of_the_pixels_is_told_until_the_look_is_kept(scene, change, words):
    change(scene)
    assert re.search(words, colours.colour_warning(scene))
    bpy.ops.das.keep_look()
    assert colours.pixel_changes(scene) == []


# ── Keep Look ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_kept_look_is_in_the_first_frame_and_nowhere_else(glow_scene, tmp_path):
    give_look(glow_scene)
    before = first_frame(glow_scene, tmp_path / "before")
    digest = render_digest(shot_of(glow_scene), "CYCLES", SAMPLES, colours.kept_look(glow_scene))
    assert first_frame_state(tmp_path / "before", 1, digest) == "fresh"

    bpy.ops.das.keep_look()
    view = glow_scene.view_settings
    assert (view.view_transform, view.look, view.exposure, view.gamma) == ("Standard", "None", 0.0, 1.0)
    assert glow_scene.render.dither_intensity == 0.0
    kept = render_digest(shot_of(glow_scene), "CYCLES", SAMPLES, colours.kept_look(glow_scene))
    assert kept != digest and first_frame_state(tmp_path / "before", 1, kept) == "stale"
    np.testing.assert_array_equal(first_frame(glow_scene, tmp_path / "after"), before)

    glow_scene.das.first_frame_view = ""
    plain = first_frame(glow_scene, tmp_path / "plain").astype(int)
    assert abs(plain - before).max() > 20


def test_kept_curves_are_those_of_the_scene(glow_scene, tmp_path):
    view = glow_scene.view_settings
    view.use_curve_mapping = True
    view.curve_mapping.curves[3].points[1].location = (1.0, 0.5)
    view.curve_mapping.update()
    before = first_frame(glow_scene, tmp_path / "before")
    bpy.ops.das.keep_look()
    assert not view.use_curve_mapping
    np.testing.assert_array_equal(first_frame(glow_scene, tmp_path / "after"), before)
    glow_scene.das.first_frame_view = ""
    assert (first_frame(glow_scene, tmp_path / "plain") != before).any()


def test_look_that_was_kept_stays_while_the_view_has_none(scene):
    give_look(scene)
    bpy.ops.das.keep_look()
    scene.render.dither_intensity = 1.0
    bpy.ops.das.keep_look()
    assert colours.kept_look(scene)["look"] == "AgX - Punchy" and colours.pixel_changes(scene) == []


def test_keep_look_can_be_undone(scene):
    give_look(scene)
    bpy.ops.ed.undo_push(message="look")
    bpy.ops.das.keep_look("EXEC_DEFAULT", True)
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert scene.view_settings.view_transform == "AgX" and scene.render.dither_intensity == 1.0
    assert scene.das.first_frame_view == "" and colours.kept_look(scene) == {}


# ── Working space ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("space", WORKING_SPACES)
def test_frames_keep_their_bytes_in_any_working_space(shot_scene, tmp_path, space):
    choose_working_space(space)
    shot_scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(shot_scene)
    bpy.ops.render.render(animation=True)
    take = api.render_take(shot_scene)
    written = sorted(Path(tmp_path / "out").glob("*.png"))
    for path, frame in zip(written, take.frames, strict=True):
        difference = decode_png(path.read_bytes()).astype(int) - decode_png(frame.read_bytes())
        assert abs(difference).max() <= ROUNDING


@pytest.mark.parametrize("space", WORKING_SPACES)
def test_first_frame_has_the_colours_of_the_files_working_space(glow_scene, tmp_path, space):
    choose_working_space(space)
    middle = first_frame(glow_scene, tmp_path)[32, 48].astype(int)
    linear = np.array(Color((0.3, 0.6, 0.2)).from_scene_linear_to_rec709_linear()).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(middle, encoded * 255, atol=2 * ROUNDING)


# ── Another colour configuration than Blender's own ─────────────────────────────────────────────────────────────────


def test_studios_own_configuration_never_raises(tmp_path):
    """Its names are other ones: the nearest is taken, by role where that is a space, and named."""
    config = tmp_path / "config.ocio"
    config.write_text(studio_colours.CONFIG)
    environment = os.environ | {"OCIO": str(config), "BLENDER_USER_RESOURCES": str(tmp_path / "profile")}
    command = [sys.executable, "-m", "tests.support.studio_colours", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["view"] == ["Studio Monitor", "Film"]
    assert said["warning"].startswith("The view transform Film, the exposure 1 and dithering (1) change the pixels")
    assert said["kept"] == {} and "has no view 'AgX'" in done.stderr
    assert said["kept look"] == ["Film", "None"] and "no look 'AgX - Punchy'" in done.stderr
    assert said["plain"] == ["Plain", 0.0] and said["exposure"] == 1.0
    assert said["changes"] == [] and "no view Standard" in said["note"]
    assert "Plain of the display Studio Monitor, whose colour space monitor is that of its role" in said["note"]
    assert (said["image"], said["strip"], said["edit"]) == ("monitor", "monitor", "Plain")
    assert said["off"] <= ROUNDING
