# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenes of the adherence suite are what the suite's tables say of them, the same for the same seed."""

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view

from tests.support.adherence_scenes import SUITE, VISITOR, build_suite_scene

pytestmark = pytest.mark.any_blender


def places(scene) -> np.ndarray:
    """[things,4,4]: where everything is at three frames of the shot."""
    found = []
    for frame in (1, (scene.frame_end + 1) // 2, scene.frame_end):
        scene.frame_set(frame)
        found += [np.array(thing.matrix_world) for thing in sorted(scene.objects, key=lambda one: one.name)]
    return np.stack(found)


@pytest.mark.parametrize("one", SUITE, ids=lambda one: one.name)
def test_scene_is_built_from_its_seed_and_moves_as_its_name_says(addon, one):
    first = places(build_suite_scene(one))
    scene = build_suite_scene(one)
    np.testing.assert_array_equal(places(scene), first)
    moves = np.abs(first.reshape(3, -1, 4, 4)[0] - first.reshape(3, -1, 4, 4)[2]).max() > 0.1
    assert moves or one.name in ("cloth", "leaves and returns")
    seen_by = set()
    for frame in range(1, scene.frame_end + 1):
        scene.frame_set(frame)
        seen_by.add(scene.camera.name)
        if VISITOR in scene.objects:
            x, y, depth = world_to_camera_view(scene, scene.camera, scene.objects[VISITOR].matrix_world.translation)
            is_seen = 0.0 < x < 1.0 and 0.0 < y < 1.0 and depth > 0.0
            third = (scene.frame_end + 2) // 3
            assert is_seen if frame in (1, scene.frame_end) else not is_seen or not third < frame < 2 * third
    assert len(seen_by) == 1 + one.cuts and scene.frame_end == one.num_frames
    assert (one.name == "cloth") == any(thing.modifiers.get("Cloth") for thing in bpy.data.objects)
