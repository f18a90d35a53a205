# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera moves in words."""

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.footage.paths import MOVES, camera_path

NEAR = 1e-9


PATHS = ["orbit:30", "dolly:1", "truck:1", "crane:1", "pan:20", "tilt:10", "roll:5", "", "spiral 1"]


@pytest.mark.parametrize("words", PATHS)
def test_every_path_begins_at_the_picture(words):
    path = camera_path(words, 5, distance=4.0, pitch_degrees=12.0)
    assert path.shape == (5, 4, 4)
    np.testing.assert_allclose(path[0], np.eye(4), atol=NEAR)
    turns = path[:, :3, :3]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (5, 3, 3)), atol=NEAR)


def test_orbit_keeps_its_distance_and_looks_at_the_same_point():
    path = camera_path("orbit:40", 9, distance=4.0)
    middle = np.array([0.0, 0.0, -4.0])
    for pose in path:
        to_middle = middle - pose[:3, 3]
        np.testing.assert_allclose(np.linalg.norm(to_middle), 4.0)
        np.testing.assert_allclose(-pose[:3, 2], to_middle / 4.0, atol=NEAR)
    assert path[-1, 0, 3] > 0.0, "to the right"


def test_moves_go_where_their_names_say():
    last = {word: camera_path(f"{word}:2", 3, distance=4.0)[-1] for word in MOVES}
    assert [last[word][:3, 3].tolist() for word in ("dolly", "truck", "crane")] == [[0, 0, -2], [2, 0, 0], [0, 2, 0]]
    assert -last["pan"][0, 2] > 0.0 and -last["tilt"][1, 2] > 0.0, "the view goes to the right, and up"
    assert last["roll"][1, 0] < 0.0, "the camera's right side goes down"


def test_crane_of_a_camera_that_looks_down_goes_straight_up_in_the_world():
    np.testing.assert_allclose(
        camera_path("crane:1", 2, distance=4.0, pitch_degrees=90.0)[-1, :3, 3], [0.0, 0.0, 1.0], atol=NEAR
    )


def test_moves_follow_one_another():
    path = camera_path("pan:90; dolly:1", 2, distance=4.0)
    np.testing.assert_allclose(path[-1, :3, 3], [1.0, 0.0, 0.0], atol=NEAR)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("zoom:2", "unknown; there are orbit"),
        ("orbit:much", "'much' where a number belongs"),
        ("dolly:1; trans 0 0 1", "mixes"),
        ("dolly:nan", "number of some size"),
        ("around", "unknown; write a move"),
    ],
)
def test_what_cannot_be_read_is_named(words, said):
    with pytest.raises(SettingsError, match=said):
        camera_path(words, 5, distance=4.0)
