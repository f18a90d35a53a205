# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that somebody else has made decides nothing that is its user's."""

import bpy
import pytest

from das_blender_addon.shot import shot_folder


@pytest.mark.any_blender
@pytest.mark.parametrize("said", ["x/../../../outside", "..", "é", "0123456789ABCDEF", "0" * 17, "0" * 15])
def test_what_is_no_id_leads_nowhere(scene, tmp_path, said):
    cache = tmp_path / "cache"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    known = shot_folder.shot_folder(scene, cache)
    scene.das.shot_id = said  # as a stranger's file may have it
    assert shot_folder.shot_folder(scene, cache) == known and known.parent == cache
    shot_folder.ensure_shot_id(scene)
    assert scene.das.shot_id == shot_folder.shot_id(scene) != said
