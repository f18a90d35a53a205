# SPDX-License-Identifier: GPL-3.0-or-later
"""Footage is imported in a window: the interface goes on while a server or the solver is at work, the scene appears at
the end in one step of undo, and what was cancelled leaves nothing behind.
"""

import threading
import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.staging import beside
from das_blender_addon.take import drive
from das_blender_addon.ui import import_job
from das_blender_addon.ui.clip_import import DAS_OT_import_clip
from das_blender_addon.ui.import_job import _importing
from das_blender_addon.ui.picture_import import DAS_OT_import_picture
from tests.support.snapshot import undo_steps
from tests.support.window import shown, start_as_in_window, tick_to_the_end, tick_until

pytestmark = pytest.mark.usefixtures("one_status_a_tick")
COUNT = 12


@pytest.fixture
def clip(scene, tmp_path):
    """Saved file, and a folder of pictures of a texture that slides."""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    bpy.ops.ed.undo_push(message="work")
    folder = tmp_path / "walk"
    folder.mkdir()
    wide = np.kron(np.random.default_rng(3).integers(20, 235, (24, 35, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    for number in range(COUNT):
        (folder / f"{number:04d}.png").write_bytes(encode_png(wide[:, 3 * number : 3 * number + 100]))
    return folder


def everything() -> tuple:
    kinds = (bpy.data.scenes, bpy.data.objects, bpy.data.meshes, bpy.data.images, bpy.data.movieclips)
    return tuple(sorted(one.name for one in kind) for kind in kinds)


def begin(operator, path, **wanted):
    return start_as_in_window(operator, _importing(str(path), wanted))


def test_clip_is_followed_beside_the_work_and_appears_in_one_step(clip):
    steps, before = undo_steps().count("name="), everything()
    job = begin(DAS_OT_import_clip, clip, lens_mm=35.0, tracks="blender", every=4)
    lines, longest = set(), 0
    while job.is_running:
        started = time.monotonic()
        wait = job.tick()
        lines.add(shown().job_line)
        if wait is not None:
            assert everything() == before, "nothing appears before the end"
            time.sleep(0.005)
        longest = max(longest, time.monotonic() - started)
    print(f"longest tick {longest:.2f} s")
    assert {"Reading the clip", "Following the clip's features", "Making the surfaces"} <= lines
    assert shown().job_state == "DONE" and shown().job_line.startswith("walk is a scene now.")
    assert undo_steps().count("name=") == steps + 1 and "Import Clip as Scene" in undo_steps()
    assert bpy.data.scenes["walk"].frame_end == COUNT and any(one.modifiers for one in bpy.data.scenes["walk"].objects)


@pytest.mark.parametrize("line", ["Reading the clip", "Finding the clip's camera"])
def test_import_that_is_cancelled_leaves_nothing_behind(clip, line):
    before, steps = everything(), undo_steps()
    job = begin(DAS_OT_import_clip, clip, lens_mm=35.0, camera="solve", tracks="blender")
    tick_until(job, lambda: shown().job_line == line)
    job.cancel()
    tick_to_the_end(job)
    drive.wait_for_threads(60.0)
    assert shown().job_state == "CANCELLED" and everything() == before and undo_steps() == steps
    assert not [thread for thread in threading.enumerate() if thread.name == "das job"]


def test_picture_that_only_blender_reads_is_read_on_the_main_thread(scene, tmp_path):
    """A picture with 16 bits, and its depth as OpenEXR."""
    image = bpy.data.images.new("deep", 24, 16, float_buffer=True)
    image.pixels.foreach_set(np.random.default_rng(1).random(24 * 16 * 4).astype(np.float32))
    for name, kind in (("deep.png", "PNG"), ("depth.exr", "OPEN_EXR")):
        scene.render.image_settings.file_format, scene.render.image_settings.color_depth = kind, "16"
        image.save_render(str(tmp_path / name), scene=scene)
    bpy.data.images.remove(image)
    before = everything()
    wanted = {"lens_mm": 35.0, "depth": str(tmp_path / "depth.exr"), "depth_kind": "metric", "num_frames": 3}
    job = begin(DAS_OT_import_picture, tmp_path / "deep.png", **wanted)
    tick_to_the_end(job)
    assert shown().job_state == "DONE", shown().job_line
    assert "more than 8 bits" in shown().job_line and bpy.data.scenes["deep"].frame_end == 3
    assert everything() != before and bpy.context.window.scene == bpy.data.scenes["deep"]


def test_what_cannot_be_imported_is_said_in_the_panel(clip):
    before = everything()
    job = begin(DAS_OT_import_clip, clip)
    tick_to_the_end(job)
    assert shown().job_state == "FAILED" and "lens of the clip" in shown().job_line and everything() == before


def test_file_that_was_opened_meanwhile_gets_no_scene(clip, tmp_path):
    job = begin(DAS_OT_import_clip, clip, lens_mm=35.0)
    tick_until(job, lambda: shown().job_line == "Reading the clip")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "work.blend"))
    tick_to_the_end(job)
    assert "walk" not in bpy.data.scenes and "Nothing was made" in shown().job_line


def test_work_for_blender_is_done_by_the_driver_and_waits_until_it_is_free():
    threads, free = [], []

    def work(should_stop):
        beside.tell("at work", 0.5)
        threads.append(threading.current_thread())
        made = beside.in_blender(lambda: threads.append(threading.current_thread()) or 7)
        with pytest.raises(SettingsError):
            beside.in_blender(lambda: (_ for _ in ()).throw(SettingsError("no")))
        return made

    recipe, waited = beside.beside_blender(work, lambda: len(free) > 2), 0
    while True:
        try:
            status = next(recipe)
        except StopIteration as end:
            assert end.value == 7
            break
        assert status is None or status.text == "at work"
        free.append(1)
        waited += 1
        time.sleep(0.002)
    assert threads[0] is not threading.main_thread() and threads[1] is threading.main_thread() and waited > 2
    assert beside.in_blender(lambda: 3) == 3


LONGEST_ENDINGS = 511
"""Characters of a handler's endings that Blender keeps; it cuts the rest off."""


@pytest.mark.parametrize(
    ("kind", "taken", "left"),
    [
        ("picture", {".png", ".jpg", ".jpeg", ".exr", ".tif", ".webp"}, {".mp4", ".blend"}),
        ("clip", {".mp4", ".mov", ".mkv", ".webm"}, {".png", ".wav"}),
    ],
)
def test_files_are_dropped_into_3d_viewports_only(scene, kind, taken, left):
    handler = getattr(bpy.types, f"DAS_FH_{kind}")
    endings = handler.bl_file_extensions
    assert taken <= set(endings.split(";")) and not left & set(endings.split(";")) and len(endings) <= LONGEST_ENDINGS
    kinds = [None, *(SimpleNamespace(type=area) for area in ("VIEW_3D", "NODE_EDITOR", "SEQUENCE_EDITOR"))]
    assert [handler.poll_drop(SimpleNamespace(area=area)) for area in kinds] == [False, True, False, False]
    area, name = handler.bl_import_operator.split(".")
    properties = getattr(getattr(bpy.ops, area), name).get_rna_type().properties
    assert properties["filepath"].is_skip_save, "the next one is no longer the file that was dropped"


@pytest.mark.parametrize(("file", "asks"), [("street.png", "invoke_props_dialog"), ("", "fileselect_add")])
def test_file_that_was_dropped_is_asked_about_and_no_other_one_is_chosen(monkeypatch, file, asks):
    asked = []

    def ask(name):
        return lambda operator, **_: asked.append(name) or {"RUNNING_MODAL"}

    window = SimpleNamespace(**{name: ask(name) for name in ("invoke_props_dialog", "fileselect_add")})
    monkeypatch.setattr(import_job, "bpy", SimpleNamespace(app=SimpleNamespace(background=False)))
    operator = SimpleNamespace(filepath=file)
    answer = import_job.ImportOperator.invoke(operator, SimpleNamespace(window_manager=window), None)
    assert answer == {"RUNNING_MODAL"} and asked == [asks] and operator._asked, "the answer starts a job"
