# SPDX-License-Identifier: GPL-3.0-or-later
"""The running job over the camera's view: what is shown of it, and where."""

from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import encode_png
from das_blender_addon.take import drive
from das_blender_addon.ui import job_editor, job_operators, job_overlay, session, takes
from tests.blender.test_panels import drawn
from tests.support.window import shown


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    monkeypatch.setattr(session, "BUDGET_S", 0.0)
    yield
    session.queue.clear()
    session.stop_job()
    shown().show_take, shown().follow_job = False, True


def jpeg(tmp_path, size=(320, 200)) -> bytes:
    """Red below, green on the left."""
    image = bpy.data.images.new("preview", *size)
    pixels = np.zeros((size[1], size[0], 4), np.float32)
    pixels[..., 3], pixels[: size[1] // 2, :, 0], pixels[:, : size[0] // 3, 1] = 1.0, 1.0, 0.5
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(tmp_path / "preview.jpg"), "JPEG"
    image.save()
    bpy.data.images.remove(image)
    return (tmp_path / "preview.jpg").read_bytes()


def picture_of(level: int) -> bytes:
    pixels = np.full((8, 12, 3), level, np.uint8)
    pixels[0] = 255
    return encode_png(pixels)


def test_overlay_follows_the_previews_of_the_running_job(scene, tmp_path):
    first = jpeg(tmp_path)
    said = [drive.Status("queued", "Waiting in the queue, 2 before this one, starts in about 5 s", 0.1),
            drive.Status("denoising", "Denoising 1/4, about 20 s left", 0.3, first),
            drive.Status("denoising", "Denoising 2/4, about 15 s left", 0.5, picture_of(100)), None, None]  # fmt: skip
    before = len(bpy.data.images)
    assert job_overlay.followed(shown()) == (None, [])
    job_operators.begin(job_operators.DAS_OT_render_take, scene, iter_of(said))
    job_operators.begin(job_operators.DAS_OT_render_take, scene, iter_of(said))
    job = session.running_job()
    job.tick()
    path, lines = job_overlay.followed(shown())
    assert path is None and lines == [
        "Render Take", "Waiting in the queue, 2 before this one, starts in about 5 s · 10%", "1 more wait in the queue"
    ]  # fmt: skip
    job.tick()
    path, lines = job_overlay.followed(shown())
    assert lines[1] == "Denoising 1/4, about 20 s left · 30%"
    pixels = job_overlay.pixels_of(path)
    assert pixels.shape == (160, 256, 4) and pixels[5, 200, 0] > 0.95 > 0.05 > pixels[-5, 200, 0]
    job.tick()
    path, _ = job_overlay.followed(shown())
    pixels = job_overlay.pixels_of(path)
    assert pixels.shape == (8, 12, 4) and (pixels[-1] == 1.0).all() and abs(pixels[0, 0, 0] - 100 / 255) < 1e-6
    assert len(bpy.data.images) == before, "no datablock is made"
    shown().follow_job = False
    assert job_overlay.followed(shown()) == (None, [])


class Editor(SimpleNamespace):
    """Stands in for an area of a window: there is none here."""

    def as_pointer(self):
        return id(self)


@pytest.mark.any_blender
def test_image_editor_of_ones_choice_follows_whether_viewports_do_or_not(scene):
    one, other = (Editor(type="IMAGE_EDITOR", ui_type="IMAGE_EDITOR") for _ in range(2))
    shown().follow_job = shown().show_take = False
    job_editor.choose(one, True)
    assert job_editor.follows(one) and not job_editor.follows(other) and not job_editor.follows(None)
    assert job_overlay.followed(shown(), always=True) == (None, []), "its own image, while nothing runs"
    said = [drive.Status("denoising", "Denoising 1/4, about 20 s left", 0.3, picture_of(100)), None, None]
    job_operators.begin(job_operators.DAS_OT_render_take, scene, iter_of(said))
    session.running_job().tick()
    path, lines = job_overlay.followed(shown(), always=True)
    assert job_overlay.pixels_of(path).shape == (8, 12, 4)
    assert lines == ["Render Take", "Denoising 1/4, about 20 s left · 30%"]
    assert any(ask() for ask in job_overlay.also_shown), "editors are drawn again with each step"
    one.type = "NODE_EDITOR"
    assert not job_editor.follows(one), "the user has made another editor of it"
    one.type = "IMAGE_EDITOR"
    job_editor.choose(one, False)
    assert not job_editor.follows(one) and not any(ask() for ask in job_overlay.also_shown)
    job_editor.choose(other, True)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert not job_editor.follows(other), "editors of another file are others"


@pytest.mark.any_blender
def test_entry_of_the_menu_has_a_tick_where_the_editor_follows(scene):
    scene.render.engine = "DAS"
    editor = Editor(type="IMAGE_EDITOR", ui_type="IMAGE_EDITOR")
    context, seen = SimpleNamespace(scene=scene, area=editor), []
    layout = SimpleNamespace(separator=list, operator=lambda name, icon: seen.append((name, icon)))
    menu = SimpleNamespace(layout=layout)
    job_editor.draw_entry(menu, context)
    job_editor.choose(editor, True)
    job_editor.draw_entry(menu, context)
    assert seen == [("das.follow_job_here", "CHECKBOX_DEHLT"), ("das.follow_job_here", "CHECKBOX_HLT")]
    assert {"CHECKBOX_DEHLT", "CHECKBOX_HLT"} <= set(
        bpy.types.UILayout.bl_rna.functions["operator"].parameters["icon"].enum_items.keys()
    )
    editor.ui_type = "UV"
    job_editor.draw_entry(menu, context)
    scene.render.engine = "CYCLES"
    editor.ui_type = "IMAGE_EDITOR"
    job_editor.draw_entry(menu, context)
    assert len(seen) == 2 and not bpy.ops.das.follow_job_here.poll()
    job_editor.choose(editor, False)


def iter_of(said):
    yield from said


@pytest.mark.any_blender
def test_preview_is_as_large_as_it_fits_and_keeps_its_shape():
    assert job_overlay.fitted((10.0, 20.0, 110.0, 70.0), (12, 6)) == (10.0, 20.0, 110.0, 70.0)
    assert job_overlay.fitted((10.0, 20.0, 110.0, 70.0), (6, 6)) == (35.0, 20.0, 85.0, 70.0)
    assert job_overlay.fitted((0.0, 0.0, 100.0, 100.0), (4, 1)) == (0.0, 37.5, 100.0, 62.5)


def test_preview_that_is_gone_or_none_is_an_error(tmp_path):
    with pytest.raises(OSError):
        job_overlay.pixels_of(tmp_path / "gone.jpg")
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    with pytest.raises(OSError):
        job_overlay.pixels_of(tmp_path / "none.jpg")


def test_switches_are_in_the_panel_before_the_first_take(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    assert "follow_job" not in drawn(takes.DAS_PT_takes)
    shown().show_take = True
    assert "follow_job" in drawn(takes.DAS_PT_takes)
