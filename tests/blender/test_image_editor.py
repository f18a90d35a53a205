# SPDX-License-Identifier: GPL-3.0-or-later
"""Which editor shows a picture of the extension: never one in which its user is at work on something else."""

import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.ui import images


@pytest.fixture
def editor(addon):
    """An Image Editor of the factory startup file that shows nothing."""
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    area = bpy.context.window_manager.windows[0].screen.areas[0]
    area.type = "IMAGE_EDITOR"
    area.ui_type = "IMAGE_EDITOR"
    area.spaces.active.mode = "VIEW"
    return area


def picture(name: str):
    return bpy.data.images.new(name, 8, 8)


def test_editor_that_shows_nothing_is_used(editor):
    assert images.editor_for(picture("DAS Tracking"), [editor]) == editor


def test_editor_with_a_picture_of_its_users_is_left_alone(editor):
    editor.spaces.active.image = picture("Reference")
    assert images.editor_for(picture("DAS Tracking"), [editor]) is None
    assert images.editor_for(editor.spaces.active.image, [editor]) == editor


@pytest.mark.parametrize("mode", ["VIEW", "PAINT"])
def test_editor_that_shows_one_of_ours_is_used_again(editor, mode):
    editor.spaces.active.mode = mode
    editor.spaces.active.image = picture("DAS Tracking")
    assert images.editor_for(picture("first.png"), [editor]) == editor
    first = picture("first.png")
    images.put(first, editor.spaces.active)
    assert images.editor_for(bpy.data.images["DAS Tracking"], [editor]) == editor


def test_editor_with_strokes_that_were_not_saved_is_left_alone(editor):
    painted = picture("DAS First Frame")
    images.put(painted, editor.spaces.active)
    painted.pixels[0] = 1.0
    assert painted.is_dirty and images.editor_for(picture("DAS Tracking"), [editor]) is None
    assert images.editor_for(painted, [editor]) == editor


def test_sequence_does_not_take_the_place_of_a_painted_picture(editor, tmp_path):
    painted = picture("DAS Tracking")
    painted.pixels[0] = 1.0
    files = [tmp_path / "0001.png", tmp_path / "0002.png"]
    for file in files:
        file.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    sequence = images.load_sequence("DAS Tracking", files)
    assert sequence != painted and sequence.source == "SEQUENCE"
    assert painted.is_dirty and painted.pixels[0] == 1.0


def test_uv_editor_is_never_taken(editor):
    editor.ui_type = "UV"
    assert editor.type == "IMAGE_EDITOR"
    assert images.editor_for(picture("DAS Tracking"), [editor]) is None
    editor.spaces.active.image = bpy.data.images["DAS Tracking"]
    assert images.editor_for(bpy.data.images["DAS Tracking"], [editor]) is None


def test_editor_with_a_mask_is_left_alone(editor):
    editor.spaces.active.mode = "MASK"
    assert images.editor_for(picture("DAS Tracking"), [editor]) is None


def test_the_best_of_several_editors_is_used(editor):
    other = bpy.context.window_manager.windows[0].screen.areas[1]
    other.type = "IMAGE_EDITOR"
    other.ui_type = "IMAGE_EDITOR"
    image = picture("DAS Tracking")
    other.spaces.active.image = image
    assert images.editor_for(image, [editor, other]) == other
