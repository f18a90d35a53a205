# SPDX-License-Identifier: GPL-3.0-or-later
"""Published camera texts give the published poses, but where the published program is wrong: said here, and why."""

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.footage.paths import camera_path, published_poses
from tests.parity.golden_data import arrays, read_json

CASES = read_json("motion/camera_strings")
POSES = arrays("motion/camera_strings")
TOLERANCE = 1e-6
"""The published poses are float32."""
TURNED_ROUND = {"spiral -1"}
"""Looks backwards from its first frame on: a picture is in no such frame."""


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["motion"] or "nothing")
def test_poses_are_the_published_ones(case):
    words, golden = case["motion"], POSES[case["key"]].astype(np.float64)
    if words in TURNED_ROUND:
        with pytest.raises(SettingsError, match="radius"):
            published_poses(words, 49)
        return
    ours = published_poses(words, 49)
    if words == "spiral 1; rot y 15":
        spiral = published_poses("spiral 1", 49)
        golden = spiral @ spiral @ golden  # its inverse in the place of the spiral itself, as below
    elif "spiral" in words:
        # The published spiral is camera → world and is then used as world → camera: the camera would go the opposite
        # way and look past the target.
        golden = np.linalg.inv(golden)
    np.testing.assert_allclose(ours, golden, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES["errors"], ids=lambda case: str(case["motion"]))
def test_what_the_published_program_stumbles_over_is_refused_in_one_sentence(case):
    """Also where it divides by 0 (a part that begins where it ends), or gives poses that are no numbers."""
    if case["motion"] in (None, 5):
        return  # never text on a command line
    with pytest.raises(SettingsError) as error:
        published_poses(case["motion"], 49)
    assert str(error.value).count(". ") == 0


def test_frames_count_to_the_end_of_the_shot_where_the_published_program_stays_at_49():
    np.testing.assert_allclose(published_poses("trans 0 0 1", 9)[-1, 2, 3], 1.0)
    assert published_poses("trans 0 0 1 4 40", 9)[3, 2, 3] == 0.0
    assert published_poses("trans 0 0 1 4 40", 9)[8, 2, 3] == 1.0


def test_text_says_how_the_scene_moves_before_the_camera():
    """+z: the camera goes back; Blender's camera looks along −Z."""
    np.testing.assert_allclose(camera_path("trans 0 0 0.5", 3, distance=1.0)[-1, :3, 3], [0.0, 0.0, 0.5])
    np.testing.assert_allclose(camera_path("trans 0.5 0.25 0", 3, distance=1.0)[-1, :3, 3], [-0.5, 0.25, 0.0])
