# SPDX-License-Identifier: GPL-3.0-or-later
"""*Repair Region…* in Blender with a real server: the object, a painted mask, and what is refused."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.take.library import takes_of
from das_blender_addon.ui import take_shelf


@pytest.fixture
def shot(shot_scene, tmp_path):
    """Four frames as the model makes them."""
    shot_scene.frame_end, shot_scene.das.compose = 4, "OFF"
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    take_shelf.shelf.forget()
    return shot_scene


def pictures(take) -> list[np.ndarray]:
    return [decode_png(path.read_bytes()).astype(int) for path in take.frames]


def changed(base, made) -> list[np.ndarray]:
    return [np.abs(one - other).max(axis=2) > 0 for one, other in zip(pictures(base), pictures(made), strict=True)]


def choose(take) -> None:
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    keys = [entry.key for entry in take_shelf.shelf.entries]
    bpy.context.window_manager.das_take_index = keys.index(take.key)


@pytest.mark.any_blender
def test_object_is_made_anew_and_nothing_else_changes(shot):
    base = api.render_take(shot)
    other = api.render_take(shot, seed=3)
    choose(base)
    assert bpy.ops.das.repair_region(by="OBJECT", shape="Cube", seed=3) == {"FINISHED"}
    made = takes_of(base.folder.parents[1])
    assert len(made) == 3, "the takes of both seeds were there"
    take = next(entry.take for entry in made if "region" in entry.report)
    assert take.report["region"]["of"] == base.key and take.report["region"]["from"] == other.key
    for inside, differs in zip(changed(base, take), changed(base, other), strict=True):
        assert inside.any() and not (inside & ~differs).any()
        rows, columns = np.nonzero(inside)
        assert columns.max() - columns.min() < 70, "the cube, which is not as wide as the picture"
        assert (differs & ~inside).any(), "the rest of the other take is left out"
    with pytest.raises(RuntimeError, match="has a repaired region already"):
        bpy.ops.das.repair_region(by="OBJECT", shape="Cube")


def test_painted_mask_follows_the_cube_and_a_changed_scene_is_refused(shot):
    base = api.render_take(shot)
    shot.frame_set(2)
    mask = bpy.data.images.new("Maske ü", 96, 64)
    pixels = np.zeros((64, 96, 4), np.float32)
    pixels[..., 3] = 1.0
    pixels[24:40, 30:60, :3] = 1.0
    mask.pixels.foreach_set(pixels.ravel())
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    assert bpy.ops.das.repair_region(mask="Maske ü", seed=3) == {"FINISHED"}
    take = next(entry.take for entry in takes_of(base.folder.parents[1]) if "region" in entry.report)
    inside = changed(base, take)
    assert inside[1].any() and not inside[1][:24].any() and not inside[1][40:].any() and not inside[1][:, :30].any()
    choose(base)
    address, shot.das.server = shot.das.server, "tcp://127.0.0.1:1"  # nobody is asked before the mask is looked at
    for mask, width, refusal in (("wide", 95, "95×64 pixels and the take 96×64"), ("empty", 96, "black all over")):
        bpy.data.images.new(mask, width, 64)
        with pytest.raises(RuntimeError, match=refusal):
            bpy.ops.das.repair_region(mask=mask)
    shot.das.server = address
    with pytest.raises(RuntimeError, match="no image 'Nowhere'"):
        bpy.ops.das.repair_region(mask="Nowhere")
    choose(base)
    shot.objects["Cube"].scale.z = 1.5
    with pytest.raises(RuntimeError, match="not what it was when the take"):
        bpy.ops.das.repair_region(by="OBJECT", shape="Cube", seed=8)
