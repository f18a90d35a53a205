# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server measures becomes a plate's depth and masks; what nobody measures is said with what to do."""

import numpy as np
import pytest

from das_blender_addon.errors import ModelError, SettingsError
from das_blender_addon.footage.depth_files import MEDIAN_DEPTH
from das_blender_addon.footage.estimated import found_depth, found_masks, is_asked, lacks
from das_blender_addon.footage.masks import is_file
from das_blender_addon.protocol.messages import Capabilities, EstimatorCapability

PICTURE = np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8)


def measured(**answer):
    """A server that answers so, and what it was asked."""
    asked = []

    def measure(kind, picture, **parameters):
        asked.append((kind, parameters))
        return answer

    return measure, asked


def depth_answer(meaning: int, lens: float = 0.0) -> dict:
    depth = np.linspace(1, 4, 600, dtype=np.float32).reshape(1, 20, 30)
    valid = np.ones((1, 20, 30), bool)
    valid[0, :3] = False
    return {"depth": depth, "valid": valid, "lens_mm": np.float32([lens]), "meaning": np.array(meaning, np.int32)}


def test_metric_depth_is_kept_and_its_lens_is_used_where_none_is_known():
    answer = depth_answer(0, lens=28.0)
    measure, asked = measured(**answer)
    depth, valid, lens, source = found_depth(PICTURE, 0.0, measure)
    assert lens == 28.0 and "metric" in source and asked == [("depth", {})]
    assert (valid == answer["valid"][0]).all() and np.allclose(depth[valid], answer["depth"][0][valid])
    assert found_depth(PICTURE, 35.0, measure)[2] == 35.0 and asked[-1] == ("depth", {"lens_mm": 35.0})


def test_inverse_and_relative_depth_put_the_middle_of_the_picture_where_a_file_would():
    for meaning in (1, 2):
        depth, valid, _, _ = found_depth(PICTURE, 35.0, measured(**depth_answer(meaning))[0])
        assert np.median(depth[valid]) == pytest.approx(MEDIAN_DEPTH)
        rises = depth[19, 29] > depth[4, 0]
        assert rises == (meaning == 1)


@pytest.mark.parametrize(
    ("words", "kind", "parameters"),
    [
        ("salient", "salient", {}),
        ("point:3,4", "mask", {"points": [[3.0, 4.0]]}),
        ("point:3,4;5.5,6", "mask", {"points": [[3.0, 4.0], [5.5, 6.0]]}),
        ("cut:1,2,10,9", "mask", {"box": [1.0, 2.0, 10.0, 9.0]}),
        ("lasso:1,2;8,2;8,9", "mask", {"lasso": [[1.0, 2.0], [8.0, 2.0], [8.0, 9.0]]}),
    ],
)
def test_words_of_masks_are_asked_of_the_server(words, kind, parameters):
    mask = np.zeros((20, 30), bool)
    measure, asked = measured(mask=mask)
    found = found_masks({"Car": words, "Tree": "tree.png", "Box": "box:1,2,3,4"}, PICTURE, measure)
    assert found["Car"] is mask and found["Tree"] == "tree.png" and found["Box"] == "box:1,2,3,4"
    assert asked == [(kind, parameters)] and is_asked(words) and not is_file(words)


@pytest.mark.parametrize(
    "words", ["point:", "point:3", "point:a,b", "cut:1,2,3", "cut:1,2,3,4;5,6,7,8", "lasso:1,2;3,4", "point:1,2,3"]
)
def test_words_that_cannot_be_read_are_refused_before_anything_is_asked(words):
    measure, asked = measured(mask=None)
    with pytest.raises(SettingsError, match="cannot be read; write point:x,y") as caught:
        found_masks({"Car": words}, PICTURE, measure)
    assert caught.value.field == "mask" and not asked


def test_without_a_server_or_an_estimator_it_is_said_what_to_do():
    with pytest.raises(SettingsError, match="none was named .* --depth plane"):
        found_depth(PICTURE, 35.0, None)
    with pytest.raises(SettingsError, match="none was named .* give a mask file"):
        found_masks({"Car": "salient"}, PICTURE, None)

    def measure(kind, picture, **parameters):
        raise ModelError("u2netp is not installed on the server: pip install it there.")

    with pytest.raises(ModelError, match="pip install it there. Without it, give a mask file"):
        found_masks({"Car": "salient"}, PICTURE, measure)
    assert is_file("salient.png") and is_file("C:/point.png") and not is_file("box:1,2,3,4")


def test_panel_is_told_why_something_is_missing():
    there = EstimatorCapability("grabcut", "mask", "GrabCut", "Apache-2.0", True)
    lacking = EstimatorCapability("u2netp", "salient", "U2", "Apache-2.0", False, remedy="pip install it.")
    server = Capabilities("das-preview", [], [], 1, [], [there, lacking])
    assert lacks(server, "mask") == "" and lacks(server, "salient") == "pip install it."
    assert "newer release" in lacks(server, "depth") and "Test Connection" in lacks(None, "mask")
