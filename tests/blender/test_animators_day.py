# SPDX-License-Identifier: GPL-3.0-or-later
"""An animator's day, compressed: variations, one chosen and made in full, a frame repaired, a second camera, a long
shot; Blender is killed and opened again, the server too.  Nothing is lost, and nothing is asked for twice.
"""


import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.shot_folder import ensure_shot_id, shot_folder
from das_blender_addon.take.cache import load_take
from das_blender_addon.take.library import set_star, takes_of
from das_blender_addon.take.pending import pending_takes
from das_blender_addon.ui import kept_jobs, take_shelf
from tests.blender.test_left_takes import press_and_kill
from tests.support.scenes import add_camera

VARIATIONS, LONG = 12, 50
PAINT = (20, 30, 250)


@pytest.fixture
def shot(shot_scene, tmp_path):
    """Three frames in a file, with a cache of their own and a second camera."""
    first = shot_scene.camera
    second = add_camera(shot_scene)
    second.name, second.location.x = "Seite ü", second.location.x + 1.0
    shot_scene.camera, shot_scene.frame_end = first, 3
    shot_scene.render.resolution_x = shot_scene.render.resolution_y = 64
    shot_scene.das.size, shot_scene.das.steps = "64x64", 2
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    ensure_shot_id(shot_scene)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "Tag.blend"))
    return tmp_path / "Tag.blend"


def opened(file, server):
    """The scene of the file, opened again."""
    bpy.ops.wm.open_mainfile(filepath=str(file))
    scene = bpy.context.scene
    scene.das.server = server.address
    take_shelf.shelf.forget()
    return scene


def begin_and_kill(file, server, press: str) -> None:
    """A Blender that presses a button and is killed once its first job is there; then the server is, too."""
    press_and_kill(file, server, press)
    server.kill()
    server.start()


def listed(scene):
    return takes_of(shot_folder(scene, scene.das.cache_folder))


def choose(entry):
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    keys = [one.key for one in take_shelf.shelf.entries]
    bpy.context.window_manager.das_take_index = keys.index(entry.key)


@pytest.mark.any_blender
def test_day_of_an_animator_loses_nothing_and_asks_for_nothing_twice(shot, server):
    own = server.new_jobs()

    def jobs() -> list[str]:
        found = [job["job"] for job in own(server.status())]
        assert len(set(found)) == len(found)
        return found

    # 1. Twelve variations, as a first look; Blender and the server end in the middle of them.
    press = f"bpy.ops.das.variations(seeds='1-{VARIATIONS}', size='48x48', steps=1)"
    begin_and_kill(shot, server, press)
    scene = opened(shot, server)
    folder = shot_folder(scene, scene.das.cache_folder)
    (left,) = kept_jobs.kept.look(scene, wait=True)
    assert bpy.ops.das.fetch_left_take(key=left.note.key) == {"FINISHED"}
    assert sorted(entry.report["seed"] for entry in listed(scene)) == list(range(1, VARIATIONS + 1))
    assert len(jobs()) == VARIATIONS and pending_takes(folder) == []
    # 2. One is chosen, and made in full.
    chosen = next(entry for entry in listed(scene) if entry.report["seed"] == 7)
    set_star(chosen, True)
    choose(chosen)
    assert bpy.ops.das.use_take_settings() == {"FINISHED"} and bpy.ops.das.make_full() == {"FINISHED"}
    scene.das.size, scene.das.steps = "64x64", 2
    assert bpy.ops.das.make_full() == {"FINISHED"}
    full = take_shelf.chosen_take(bpy.context)
    assert full.report["model_size"] == [64, 64] and len(jobs()) == VARIATIONS + 1
    # 3. A frame of it is repaired.
    scene.frame_set(2)
    assert bpy.ops.das.repair_frame() == {"FINISHED"}
    file = folder / "first_frames" / "0002.png"
    picture = decode_png(file.read_bytes()).copy()
    picture[20:40, 20:40] = PAINT
    file.write_bytes(encode_png(picture))
    assert bpy.ops.das.render_take() == {"FINISHED"}
    repaired = take_shelf.chosen_take(bpy.context)
    np.testing.assert_array_equal(decode_png(repaired.take.frames[1].read_bytes())[30, 30], PAINT)
    # 4. The file is saved, closed and opened; both cameras.
    bpy.ops.wm.save_mainfile()
    scene = opened(shot, server)
    before = len(jobs())
    assert before == VARIATIONS + 2
    assert bpy.ops.das.render_all_shots(by="CAMERAS") == {"FINISHED"}
    assert len(jobs()) == before + 1, "the scene's own camera's take is there"
    other = next(entry for entry in listed(scene) if entry.report["cameras"] == [[1, "Seite ü"]])
    assert [key["origin"] for key in other.report["key_pictures"]] == ["rendered", "shared"]
    # 5. A long shot, in two windows.
    scene.frame_end, scene.das.key_mode, scene.das.size, scene.das.steps = LONG, "FIRST", "48x48", 1
    assert bpy.ops.das.render_take() == {"FINISHED"}
    assert len(jobs()) == before + 3
    # Nothing is lost: every take is whole, the star and the stroke are there; and nothing is asked for twice.
    entries = listed(scene)
    assert len(entries) == VARIATIONS + 4 and all(load_take(entry.take.folder) for entry in entries)
    assert [entry.key for entry in entries if entry.starred] == [chosen.key]
    assert (decode_png(file.read_bytes())[30, 30] == PAINT).all()
    made = jobs()
    assert bpy.ops.das.render_take() == {"FINISHED"}
    scene.frame_end = 3
    assert bpy.ops.das.variations(seeds="6-8", size="48x48", steps=1) == {"FINISHED"}
    assert jobs() == made and len(listed(scene)) == len(entries)
