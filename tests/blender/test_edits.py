# SPDX-License-Identifier: GPL-3.0-or-later
"""What the list of key pictures knows of edits since they were made: objects that moved, meshes and cameras that
changed, without looking at any other frame than the one that is shown.
"""

import json
import os
import time

import bpy
import pytest

from das_blender_addon import api
from das_blender_addon.jobs.sources import facts_of
from das_blender_addon.scene import edits
from das_blender_addon.shot.pictures import keep_rendered, note_as_of, picture_as_of, read_record
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.ui import key_pictures, operators, saving
from tests.blender.test_panels import words
from tests.support.scenes import key

PICTURE = bytes.fromhex("89504e470d0a1a0a")


def update() -> None:
    """What a window does after each step of its user."""
    bpy.context.view_layer.update()


@pytest.fixture
def pictures(shot_scene, tmp_path):
    """(the scene, in which edits are noted as in a window; the rendered pictures of frames 1 and 5 as it is)."""
    bpy.app.handlers.depsgraph_update_post.append(edits.note)
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    shot_scene.das.key_mode, shot_scene.das.key_pictures.add().frame = "LIST", 5
    shot_scene.camera.animation_data_clear()
    update()
    edits.forget()
    folder = api.shot_folder(shot_scene, tmp_path / "cache")
    now = time.time()
    kept = [keep_rendered(folder, frame, "ab" * 32, PICTURE, {"as_of": now}).path for frame in (1, 5)]
    yield shot_scene, kept
    bpy.app.handlers.depsgraph_update_post.remove(edits.note)
    edits.forget()


def states(scene) -> list[str]:
    return [one.state for one in key_pictures.states_of(scene)]


def move_cube(scene):
    bpy.data.objects["Cube"].location.x += 0.5


def move_camera(scene):
    scene.camera.location.x += 0.5


def change_lens(scene):
    scene.camera.data.lens = 70.0


def edit_mesh(scene):
    mesh = bpy.data.objects["Cube"].data
    mesh.vertices[0].co.x += 0.5
    mesh.update()


def key_the_cube(scene):
    key(bpy.data.objects["Cube"], "location", {1: 0.0, 5: 2.0}, index=1)


def delete_the_cube(scene):
    bpy.data.objects.remove(bpy.data.objects["Cube"])


def hide_the_cube(scene):
    bpy.data.objects["Cube"].hide_render = True


@pytest.mark.parametrize(
    "edit", [move_cube, move_camera, change_lens, edit_mesh, key_the_cube, delete_the_cube, hide_the_cube]
)
def test_pictures_may_be_stale_after_an_edit(pictures, edit):
    scene, _ = pictures
    assert states(scene) == ["fresh", "fresh"] and operators.first_frame_words(scene) == ""
    before = scene.frame_current
    edit(scene)
    update()
    assert states(scene) == ["edited", "edited"] and scene.frame_current == before
    assert operators.first_frame_words(scene).startswith("May be stale: geometry or cameras were edited")


@pytest.mark.any_blender
def test_looking_and_playing_is_no_edit(pictures):
    scene, _ = pictures
    for frame in (3, 5, 1):
        scene.frame_set(frame)
    bpy.data.objects["Cube"].select_set(True)
    scene.das.prompt = "a cube"
    bpy.data.materials.new("Other").diffuse_color = (1.0, 0.0, 0.0, 1.0)
    update()
    assert states(scene) == ["fresh", "fresh"]


@pytest.mark.any_blender
def test_picture_that_is_found_to_fit_is_fresh_again(pictures):
    """A take, or *Render*, compares the geometry of its frame; an edit after the scene was read counts again."""
    scene, (first, other) = pictures
    move_cube(scene)
    update()
    note_as_of(first, facts_of(scene, resolve_settings(scene)).read_at)
    assert states(scene) == ["fresh", "edited"]
    note_as_of(other, 1.0)  # what is known already is newer
    assert states(scene) == ["fresh", "edited"] and picture_as_of(other) > 1.0
    move_cube(scene)
    update()
    assert states(scene) == ["edited", "edited"]


@pytest.mark.any_blender
def test_file_remembers_that_it_was_edited(pictures, tmp_path):
    scene, (first, _) = pictures
    as_of, scene.render.engine = picture_as_of(first), "DAS"
    move_camera(scene)
    update()
    saving.begin_saving()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    kept = scene.das.edited_at
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    again = bpy.context.scene
    assert again.das.edited_at == kept and edits.last_edit(again) == float(kept) > 0.0
    for made, state in ((as_of, "edited"), (time.time(), "fresh")):
        keep_rendered(api.shot_folder(again, tmp_path / "cache"), 1, "ab" * 32, PICTURE, {"as_of": made})
        assert states(again)[0] == state
    again.das.edited_at = "no number"
    assert edits.last_edit(again) == 0.0


@pytest.mark.any_blender
def test_picture_of_an_earlier_release_goes_by_its_file(pictures):
    scene, (first, _) = pictures
    record = read_record(first)
    del record["as_of"]
    first.with_suffix(".json").write_text(json.dumps(record))
    os.utime(first, (1000.0, 1000.0))
    assert picture_as_of(first) == 1000.0
    move_cube(scene)
    update()
    assert states(scene)[0] == "edited"


@pytest.mark.any_blender
def test_panel_says_what_edited_since_means(pictures):
    scene, _ = pictures
    assert "edited since" not in words(key_pictures.DAS_PT_key_pictures).lower()
    move_cube(scene)
    update()
    assert "edited since" in words(key_pictures.DAS_PT_key_pictures)
    assert "Edited since: may be stale." in words(key_pictures.DAS_PT_key_pictures)
