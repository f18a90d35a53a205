# SPDX-License-Identifier: GPL-3.0-or-later
"""What buttons do to a picture that is there: nothing is lost, and a painted one is replaced after a question only."""

from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.shot_folder import ensure_shot_id
from das_blender_addon.ui import key_buttons, repairing, replacing
from tests.blender.test_key_pictures import PAINT, folder_of


@pytest.fixture
def listed(shot_scene, tmp_path):
    """The shot with a list of key pictures and a cache of its own."""
    shot_scene.das.cache_folder, shot_scene.das.key_mode = str(tmp_path / "cache"), "LIST"
    return shot_scene


def painted_over(path):
    """The picture ``path`` opened in this Blender, with strokes that were not saved."""
    image = bpy.data.images.load(str(path), check_existing=True)
    image.pixels.foreach_set(np.tile(np.float32([0.0, 0.0, 1.0, 1.0]), image.size[0] * image.size[1]))
    image.update()
    assert image.is_dirty
    return image


@pytest.mark.any_blender
def test_no_button_replaces_a_picture_under_unsaved_strokes(listed):
    bpy.ops.das.render_take()
    listed.frame_set(9)
    bpy.ops.das.carry_key_picture()
    path = api.key_pictures(listed)[1].path
    before = path.read_bytes()
    image = painted_over(path)
    for button in (bpy.ops.das.carry_key_picture, bpy.ops.das.key_picture_from_take, bpy.ops.das.repair_frame):
        with pytest.raises(RuntimeError, match="frame 9 has strokes that are not saved: save the image"):
            button()
    listed.das.key_index = 0
    with pytest.raises(RuntimeError, match="frame 9 has strokes that are not saved: save the image"):
        bpy.ops.das.render_key_pictures(chosen=True)
    assert path.read_bytes() == before and image.is_dirty


@pytest.mark.any_blender
def test_strokes_made_while_a_picture_is_carried_are_kept_under_a_number(listed):
    listed.frame_set(9)
    bpy.ops.das.carry_key_picture()
    path = api.key_pictures(listed)[1].path
    carried = path.read_bytes()
    image = painted_over(path)
    key_buttons.DAS_OT_carry_key_picture.finished(listed, path)
    kept = [decode_png(one.read_bytes()) for one in path.parent.glob("*-kept-*.png")]
    assert len(kept) == 1 and (kept[0] == (0, 0, 255)).all()
    assert path.read_bytes() == carried and not image.is_dirty, "the carried picture is not shown"


@pytest.mark.any_blender
def test_open_picture_shows_the_frame_of_the_take_that_replaced_it(listed):
    ensure_shot_id(listed)
    bpy.ops.das.render_take()
    listed.frame_set(9)
    bpy.ops.das.key_picture_from_take()
    path = api.key_pictures(listed)[1].path
    path.write_bytes(encode_png(np.full((64, 96, 3), PAINT, np.uint8)))
    image = bpy.data.images.load(str(path))
    assert np.allclose(image.pixels[:3], np.float32(PAINT) / 255.0)
    bpy.ops.das.key_picture_from_take()
    assert not np.allclose(image.pixels[:3], np.float32(PAINT) / 255.0)


@pytest.mark.any_blender
@pytest.mark.parametrize("kind", ["path", "image"])
def test_picture_of_the_users_own_is_not_passed_over(listed, tmp_path, kind):
    bpy.ops.das.render_take()
    line = listed.das.key_pictures.add()
    line.frame = 9
    if kind == "path":
        line.path = str(tmp_path / "own.png")
    else:
        line.image = bpy.data.images.new("Own", 96, 64)
    listed.frame_set(9)
    for button in (bpy.ops.das.carry_key_picture, bpy.ops.das.key_picture_from_take, bpy.ops.das.repair_frame):
        with pytest.raises(RuntimeError, match="frame 9 is one of your own: clear its path"):
            button()
    listed.frame_set(1)
    listed.das.first_frame_path = str(tmp_path / "own.png")
    with pytest.raises(RuntimeError, match="frame 1 is one of your own: clear its path"):
        bpy.ops.das.key_picture_from_take()
    assert not list((folder_of(listed) / "first_frames").glob("000[19].png"))


class Manager:
    """Blender's window manager where there is no window: what is asked of its user."""

    def __init__(self):
        self.asked = []

    def invoke_confirm(self, operator, event, **words):
        self.asked.append(words)
        return {"RUNNING_MODAL"}


@pytest.mark.any_blender
@pytest.mark.parametrize(
    "button", ["carry_key_picture", "key_picture_from_take", "repair_frame", "render_key_pictures"]
)
def test_window_asks_before_a_painted_picture_is_replaced(listed, monkeypatch, button):
    """`bpy.app` cannot be told that there is a window: the module is."""
    bpy.ops.das.render_take()
    listed.frame_set(9)
    bpy.ops.das.carry_key_picture()
    path = api.key_pictures(listed)[1].path
    path.write_bytes(encode_png(np.full((64, 96, 3), PAINT, np.uint8)))
    listed.das.key_index = 0
    cls = getattr(repairing if button == "repair_frame" else key_buttons, f"DAS_OT_{button}")
    windowed = SimpleNamespace(app=SimpleNamespace(background=False), data=bpy.data)
    for module in (key_buttons, replacing):
        monkeypatch.setattr(module, "bpy", windowed)
    manager = Manager()
    context = SimpleNamespace(scene=listed, window_manager=manager)
    pressed = SimpleNamespace(chosen=True, confirm_text=getattr(cls, "confirm_text", ""))
    pressed.replaced_picture = lambda scene: cls.replaced_picture(pressed, scene)
    assert cls.invoke(pressed, context, None) == {"RUNNING_MODAL"}
    assert path.name in manager.asked[0]["message"] and "numbered" in manager.asked[0]["message"]
