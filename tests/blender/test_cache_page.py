# SPDX-License-Identifier: GPL-3.0-or-later
"""The caches in the preferences: measured, and cleaned of what can be made again."""

import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.take import cleaning, recent
from das_blender_addon.ui import cache_page, operators
from tests.blender.test_panels import Layout


def kinds() -> dict[str, int]:
    pieces = cleaning.pieces_of(cache_page.caches(), cache_page.used_takes())
    return {kind: sum(piece.kind == kind for piece in pieces) for kind in cleaning.DISPOSABLE}


def test_clean_up_deletes_takes_previews_and_rendered_first_frames(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    shot_scene.frame_end = 5
    bpy.ops.das.render_take()
    bpy.ops.das.preview_tracking()
    assert kinds() == {"takes": 1, "previews": 1, "first frames": 1}
    bpy.ops.das.clean_up(takes=False, first_frames=False)
    assert kinds() == {"takes": 1, "previews": 0, "first frames": 1}
    painted = operators.first_frame_file(shot_scene)
    painted.write_bytes(encode_png(np.full((64, 96, 3), 7, np.uint8)))
    bpy.ops.das.clean_up()
    assert kinds() == {"takes": 0, "previews": 0, "first frames": 0} and painted.is_file()
    assert recent.last_take(shot_scene) is None


def test_take_on_a_strip_stays(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    shot_scene.frame_end = 5
    bpy.ops.das.render_take()
    take = recent.last_take(shot_scene)
    bpy.ops.das.add_to_sequencer()
    bpy.ops.das.clean_up()
    assert all(path.is_file() for path in take.frames)


@pytest.mark.any_blender
def test_what_the_page_has_measured_is_not_looked_for_again(scene, tmp_path):
    scene.das.cache_folder = str(tmp_path)
    preview = tmp_path / "file-Scene" / "tracking_preview" / "0001.png"
    preview.parent.mkdir(parents=True)
    preview.write_bytes(b"x")
    cache_page.measured.forget()
    cache_page.measured.look()
    cache_page.measured.join()
    pieces = cache_page.measured.known()
    assert [piece.kind for piece in pieces] == ["previews"] and cache_page.measured.known() is pieces
    scene.das.cache_folder = str(tmp_path / "elsewhere")
    assert cache_page.measured.known() == [], "other caches are looked at now"
    scene.das.cache_folder = str(tmp_path)
    cache_page.measured.forget()
    assert cache_page.measured.known() == pieces and cache_page.measured.known() is not pieces


def test_preferences_show_the_sizes(scene, tmp_path):
    scene.das.cache_folder = str(tmp_path)
    preview = tmp_path / "file-Scene" / "tracking_preview" / "0001.png"
    preview.parent.mkdir(parents=True)
    preview.write_bytes(b"x" * 2500)
    cache_page.measured.look()
    cache_page.measured.join()
    layout = Layout()
    cache_page.draw_caches(layout)
    assert str(tmp_path) in layout.drawn and "das.clean_up" in layout.drawn
    assert any("previews 2.5 kB" in words for words in layout.drawn)
