# SPDX-License-Identifier: GPL-3.0-or-later
"""Grease Pencil appears once: Blender draws it over a render's frames, at its depth; pictures and takes have none."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene.grease_pencil import has_grease_pencil
from tests.blender.test_engine import render_animation
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
