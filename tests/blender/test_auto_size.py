# SPDX-License-Identifier: GPL-3.0-or-later
"""A painted first frame is not refused when the server proves fast and the automatic size would grow."""

from dataclasses import replace

import numpy as np

from das_blender_addon.jobs import of_scene
from das_blender_addon.jobs.sources import facts_of
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.pictures import first_frame_path
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import recipes
from tests.support.capabilities import capabilities_of, model_capability

FAST = capabilities_of(model_capability(num_frames=[9], sizes=[[96, 64], [192, 128]], is_fast=True))


def test_painted_first_frame_decides_the_automatic_size(scene, tmp_path):
    scene.render.engine = "DAS"
    scene.das.cache_folder = str(tmp_path)
    settings = resolve_settings(scene)
    facts = replace(facts_of(scene, settings), in_window=True)
    assert recipes.plan_shot(facts, settings, FAST).model_size == (192, 128)
    file = first_frame_path(facts.folder, 1)
    file.parent.mkdir(parents=True)
    file.write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    assert recipes.plan_shot(facts, settings, FAST).model_size == (96, 64)
    assert recipes.plan_shot(facts, settings, FAST, again=True).model_size == (192, 128)
    notes = of_scene.plan_shot(scene, settings, FAST).notes
    assert any("the first frame's that is there" in note for note in notes)
