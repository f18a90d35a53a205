# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapters and speed become a job's options, and so part of a take's key."""

from dataclasses import replace

import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot.plan import plan
from das_blender_addon.take.cache import TakeSettings, take_request
from das_blender_addon.take.job_options import job_options
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.shots import wall_shot

INK, OTHER_INK = ["ink", "ab" * 32], ["ink", "cd" * 32]
SERVER = model_capability(loras=[INK, ["grain", "ef" * 32]], speeds=["exact", "fast", "preview"])


def test_nothing_asked_for_is_no_option():
    assert job_options(SERVER, (), "") == job_options(SERVER, (), "exact") == {}
    assert job_options(model_capability(), (), "") == job_options(model_capability(), (), "exact") == {}


def test_adapters_go_with_their_hashes():
    assert job_options(SERVER, (("ink", 0.8), ("grain", -1)), "") == {
        "loras": [["ink", 0.8, "ab" * 32], ["grain", -1.0, "ef" * 32]]
    }


def test_the_servers_own_speed_is_said_in_the_job():
    fast = replace(SERVER, speeds=["fast", "exact", "preview"])
    assert job_options(fast, (), "") == {"speed": "fast"}
    assert job_options(fast, (), "exact") == {}
    assert job_options(fast, (), "preview") == {"speed": "preview"}


def test_what_the_server_does_not_have_is_refused_in_one_sentence():
    with pytest.raises(SettingsError, match="no LoRA 'oil' for tiny; there is ink, grain.$"):
        job_options(SERVER, (("oil", 1.0),), "")
    with pytest.raises(SettingsError, match=r"no LoRA 'oil' for tiny; there is none \(das-server models add-lora"):
        job_options(model_capability(), (("oil", 1.0),), "")
    with pytest.raises(SettingsError, match="The speed is 'fast'; tiny on this server has exact."):
        job_options(model_capability(), (), "fast")


def test_other_weights_other_files_and_other_speeds_are_other_takes(tmp_path):
    import numpy as np

    first_frame = tmp_path / "first_frame.png"

    def key(settings: TakeSettings, model=SERVER) -> str:
        made = plan(range(1, 4), (96, 64), (1.0, 1.0), capabilities_of(model))
        width, height = made.picture_size
        first_frame.write_bytes(encode_png(np.full((height, width, 3), 50, np.uint8)))
        return take_request(wall_shot(made), first_frame, settings, tmp_path).key

    plain = TakeSettings(prompt="a vase")
    keys = [
        key(plain),
        key(replace(plain, loras=(("ink", 0.8),))),
        key(replace(plain, loras=(("ink", 0.5),))),
        key(replace(plain, loras=(("ink", 0.8),)), replace(SERVER, loras=[OTHER_INK])),
        key(replace(plain, speed="fast")),
        key(replace(plain, speed="preview")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(replace(plain, speed="exact")) == key(plain)
