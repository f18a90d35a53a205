# SPDX-License-Identifier: GPL-3.0-or-later
"""Grease Pencil appears once: Blender draws it over a render's frames, at its depth; pictures and takes have none."""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene.grease_pencil import has_grease_pencil
from tests.blender.test_engine import render_animation, written
from tests.support.scenes import add_grease_pencil, link

NOTE = (
    "'Pencil' is Grease Pencil: Blender draws it over the frames of a render, and no frame or strip of a take has it."
)


@pytest.fixture
def shot(shot_scene, tmp_path):
    """The shot of `shot_scene`, three frames of it."""
    shot_scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(shot_scene)
    shot_scene.frame_end = 3
    return shot_scene


def drawn(take) -> np.ndarray:
    return np.stack([decode_png(path.read_bytes()) for path in take.frames])


def test_grease_pencil_is_over_a_render_once_at_its_depth_and_in_no_take(shot):
    # A green line across the picture below the middle of the cube, before it on its right and behind it on its left.
    places = [(-4.0, 3.0, -0.5), (2.5, 3.0, -0.5), (2.5, -3.0, -0.3), (-0.9, -3.0, -0.3)]
    pencil = add_grease_pencil(shot, places, colour=(0.0, 1.0, 0.0, 1.0))
    frames = np.stack(render_animation(shot))
    take = api.render_take(shot)
    assert take.cached and NOTE in take.report["notes"]
    bpy.data.objects.remove(pencil)
    plain = api.render_take(shot, anew=True)
    np.testing.assert_array_equal(drawn(take), drawn(plain))
    assert NOTE not in plain.report["notes"]

    green = (frames[..., 1] > 200) & (frames[..., 0] < 100)
    changed = (frames != drawn(plain)).any(axis=3)
    assert (green <= changed).all() and changed.mean() < 0.1
    tracking = api.export_tracking(shot, size=(96, 64))
    cube = tracking.coverage
    assert green.any(axis=(1, 2)).all() and (green & ~cube).any() and (green & cube).any()
    assert not (changed & cube)[:, :, :24].any(), "what is behind the cube is hidden"
    assert changed[2, :, :12].any(), "and beside it is not"


@pytest.mark.any_blender
def test_scene_strip_has_grease_pencil_once(shot):
    """Half of it is seen through: drawn twice it would hide more."""
    shot.frame_end = 1
    add_grease_pencil(shot, [(-4.0, -3.0, -0.3), (4.0, -3.0, -0.3)], colour=(0.0, 1.0, 0.0, 0.5))
    edit = bpy.data.scenes.new("Edit")
    edit.render.resolution_x, edit.render.resolution_y = shot.render.resolution_x, shot.render.resolution_y
    edit.view_settings.view_transform, edit.render.dither_intensity = "Standard", 0.0
    edit.render.filepath, edit.frame_end = str(Path(shot.render.filepath).parent.parent / "edit" / "####"), 1
    compat.set_image_output(edit)
    compat.strips(edit).new_scene("Shot", shot, 1, 1).scene_input = "CAMERA"
    bpy.ops.render.render(animation=True, scene=edit.name)
    found = decode_png(written(edit)[0].read_bytes())
    take = api.render_take(shot)
    plain = drawn(take)[0]
    line = (np.abs(found.astype(int) - plain) > 20).any(axis=2)
    empty = line & ~plain.any(axis=2)
    assert take.cached and 0.01 < line.mean() < 0.15 and empty.sum() > 20
    level = np.median(found[empty], axis=0)
    assert level[1] == pytest.approx(188, abs=3) and level[0] == level[2] == 0, "half of the light; twice it is 225"


def test_grease_pencil_in_an_instanced_collection_is_found(shot):
    assert not has_grease_pencil(shot)
    pencil = add_grease_pencil(shot, [(0, 0, 0), (1, 0, 0)])
    shot.collection.objects.unlink(pencil)
    outer, inner = bpy.data.collections.new("Outer"), bpy.data.collections.new("Inner")
    inner.objects.link(pencil)
    nested = bpy.data.objects.new("Nested", None)
    nested.instance_type, nested.instance_collection = "COLLECTION", inner
    outer.objects.link(nested)
    assert not has_grease_pencil(shot)
    empty = link(shot, "Empty")
    empty.instance_type, empty.instance_collection = "COLLECTION", outer
    assert has_grease_pencil(shot)
