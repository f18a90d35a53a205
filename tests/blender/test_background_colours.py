# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender without a window writes a take's frames byte by byte, whatever the scene's look: ``-a``, ``-f`` and
``das render`` give equal pixels.
"""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands, compat
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene import colours
from tests.blender.test_engine import assert_render_fails, render_animation, render_still, written
from tests.support.scenes import key

RAMP = 7  # steps of a painting's colours that meet all of the tone curve


@pytest.fixture
def painted_shot(shot_scene, tmp_path):
    """The shot of `shot_scene` with a painting for its first frame, so that no look changes its take."""
    scene = shot_scene
    columns, rows = np.meshgrid(np.arange(96) * 255 // 95, np.arange(64) * 255 // 63)
    picture = np.stack([columns, rows, (columns * RAMP + rows) % 256], axis=-1).astype(np.uint8)
    image = tmp_path / "first.png"
    image.write_bytes(encode_png(picture))
    scene.das.first_frame_path = str(image)
    scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(scene)
    return scene


def take_frames(scene) -> list[np.ndarray]:
    take = api.render_take(scene)
    assert take.cached
    return [decode_png(path.read_bytes()) for path in take.frames]


def view_of(scene) -> dict[str, object]:
    """All that a look is made of, the scene's own and the output's."""
    output = scene.render.image_settings
    return {"dither": scene.render.dither_intensity, "management": output.color_management} | {
        f"{owner.bl_rna.identifier} {index} {name}": getattr(owner, name)
        for index, place in enumerate((scene, output))
        for owner in (place.display_settings, place.view_settings)
        for name in owner.bl_rna.properties.keys()
        if isinstance(getattr(owner, name), str | float | bool)
    }


def give_override(scene) -> None:
    output = scene.render.image_settings
    output.color_management = "OVERRIDE"
    output.view_settings.view_transform, output.view_settings.exposure = "AgX", 1.0


def give_curves(scene) -> None:
    view = scene.view_settings
    view.use_curve_mapping = True
    view.curve_mapping.curves[3].points[1].location = (1.0, 0.5)
    view.curve_mapping.update()


def give_everything(scene) -> None:
    view = scene.view_settings
    view.view_transform, view.look, view.exposure, view.gamma = "AgX", "AgX - Punchy", 0.7, 1.2
    scene.render.dither_intensity = 1.0


LOOKS = {
    "AgX": lambda scene: setattr(scene.view_settings, "view_transform", "AgX"),
    "Filmic": lambda scene: setattr(scene.view_settings, "view_transform", "Filmic"),
    "look": lambda scene: setattr(scene.view_settings, "look", "High Contrast"),
    "exposure": lambda scene: setattr(scene.view_settings, "exposure", 1.5),
    "gamma": lambda scene: setattr(scene.view_settings, "gamma", 2.0),
    "curves": give_curves,
    "display": lambda scene: setattr(scene.display_settings, "display_device", "Display P3"),
    "dithering": lambda scene: setattr(scene.render, "dither_intensity", 2.0),
    "override": give_override,
    "everything": give_everything,
}


@pytest.mark.parametrize("look", LOOKS)
def test_animation_is_the_takes_frames_whatever_the_look(painted_shot, look):
    LOOKS[look](painted_shot)
    before = view_of(painted_shot)
    frames = render_animation(painted_shot)
    for frame, expected in zip(frames, take_frames(painted_shot), strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert view_of(painted_shot) == before and colours.pixel_changes(painted_shot)


def test_still_is_the_takes_frame_whatever_the_look(painted_shot):
    give_everything(painted_shot)
    before = view_of(painted_shot)
    np.testing.assert_array_equal(render_still(painted_shot, 7), take_frames(painted_shot)[6])
    assert view_of(painted_shot) == before


def test_animated_exposure_is_not_applied_again(painted_shot):
    key(painted_shot.view_settings, "exposure", {1: -1.0, 9: 2.0})
    key(painted_shot.render, "dither_intensity", {1: 0.0, 9: 2.0})
    for frame, expected in zip(render_animation(painted_shot), take_frames(painted_shot), strict=True):
        np.testing.assert_array_equal(frame, expected)
    painted_shot.frame_set(9)
    assert painted_shot.view_settings.exposure == 2.0


@pytest.mark.any_blender
def test_render_command_and_animation_are_equal_where_the_first_frame_has_the_look(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path / "cache")  # without the first frame that other tests have rendered
    shot_scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(shot_scene)
    give_everything(shot_scene)
    frames = render_animation(shot_scene)
    assert commands.main(["render", "--output", str(tmp_path / "command")]) == 0
    for path, frame in zip(sorted((tmp_path / "command").iterdir()), frames, strict=True):
        np.testing.assert_array_equal(decode_png(path.read_bytes()), frame)
    bpy.ops.das.keep_look()
    for again, frame in zip(render_animation(shot_scene), frames, strict=True):
        np.testing.assert_array_equal(again, frame)


def test_look_is_back_after_a_render_that_fails(painted_shot):
    give_everything(painted_shot)
    before = view_of(painted_shot)
    painted_shot.das.first_frame_path = "/nowhere.png"
    assert_render_fails(painted_shot, "nowhere.png")
    assert view_of(painted_shot) == before


def test_file_that_is_saved_meanwhile_has_the_look(painted_shot, tmp_path):
    give_everything(painted_shot)
    file = tmp_path / "meanwhile.blend"

    def save(*_) -> None:
        if not file.exists():
            bpy.ops.wm.save_as_mainfile(filepath=str(file), copy=True)

    bpy.app.handlers.render_write.append(save)
    try:
        frames = render_animation(painted_shot)
    finally:
        bpy.app.handlers.render_write.remove(save)
    np.testing.assert_array_equal(frames[8], take_frames(painted_shot)[8])
    bpy.ops.wm.open_mainfile(filepath=str(file))
    view = bpy.context.scene.view_settings
    assert (view.view_transform, view.look) == ("AgX", "AgX - Punchy")
    assert bpy.context.scene.render.dither_intensity == 1.0


def test_strips_of_the_scene_keep_its_look(painted_shot, tmp_path):
    """Blender renders those instead of the engine's frames, and they are no finished pictures."""
    give_everything(painted_shot)
    strip = compat.strips(painted_shot)
    colour = strip.new_effect(name="Grey", type="COLOR", channel=1, frame_start=1, **{_length_name(): 10})
    colour.color = (0.5, 0.5, 0.5)
    painted_shot.render.dither_intensity = 0.0
    painted_shot.frame_end = 1
    (frame,) = render_animation(painted_shot)
    painted_shot.render.engine = "BLENDER_WORKBENCH"
    Path(written(painted_shot)[0]).unlink()
    (expected,) = render_animation(painted_shot)
    np.testing.assert_array_equal(frame, expected)
    assert abs(frame.astype(int) - 128).max() > 5


def _length_name() -> str:
    return "length" if bpy.app.version >= (5, 0, 0) else "frame_end"


def test_other_engines_keep_their_look(painted_shot):
    painted_shot.view_settings.view_transform = "AgX"
    seen = []
    note = lambda scene, *_: seen.append(scene.view_settings.view_transform)  # noqa: E731
    bpy.app.handlers.render_write.append(note)
    try:
        painted_shot.render.engine = "CYCLES"
        painted_shot.cycles.samples = 1
        painted_shot.frame_end = 1
        render_animation(painted_shot)
    finally:
        bpy.app.handlers.render_write.remove(note)
    assert seen == ["AgX"]
