# SPDX-License-Identifier: GPL-3.0-or-later
"""A room is grasped where its picture shows its edges, and dragging gives the room that has them there."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.footage.plane import Room, plane_plate
from das_blender_addon.footage.room_grips import FAR, NAMES, NEAREST, RIM, Grips

LENS = 28.0
ROOMS = {
    "whole": Room(0.45, 1.6, 6.0, 2.0, 2.5, 2.9),
    "wall": Room(wall=8.0),
    "open": Room(0.4, 1.2, 0.0, 2.0, 3.0, 0.0),
    "hall": Room(0.55, 1.7, 0.0, 2.0, 2.0, 4.0),
    "sky": Room(wall=0.0),
}
SIZES = [(720, 480), (301, 517), (64, 64)]
EXACT = 1e-9


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_grip_that_is_not_moved_changes_nothing_and_one_that_is_lies_where_it_was_dragged(room, size):
    grips = Grips(room, LENS, size)
    places = grips.places()
    assert tuple(places) and set(places) == set(NAMES)
    for name, place in places.items():
        assert min(place) >= RIM and max(place) <= 1.0 - RIM, name
        if not getattr(room, name) or not all(RIM < part < 1.0 - RIM for part in place):
            continue  # a wall that is not there, or beyond the border: waits there
        same = grips.dragged(name, place)
        assert getattr(same, name) == pytest.approx(getattr(room, name), rel=EXACT)
        across = name in ("left", "right")
        towards = np.subtract((0.5, 0.6), place) * 0.1
        to = (place[0] + towards[0] * across, place[1] + towards[1] * (not across))
        dragged = grips.dragged(name, to)
        assert replace(dragged, **{name: getattr(room, name)}) == room, "only its own value is another one"
        if name != "eye_height":  # where the floor is grasped depends on it
            np.testing.assert_allclose(Grips(dragged, LENS, size).places()[name], to, atol=1e-9)


def test_edges_are_where_the_surfaces_of_the_picture_meet():
    room, size = ROOMS["whole"], (360, 240)
    depth = plane_plate(np.zeros((*size[::-1], 3), np.uint8), LENS, room).depth
    places = Grips(room, LENS, size).places()
    for name, along in (("wall", 0), ("ceiling", 0), ("left", 1), ("right", 1)):
        x, y = (int(part * side) for part, side in zip(places[name], size, strict=True))
        line = depth[max(y - 9, 0) : y + 10, x] if along == 0 else depth[y, max(x - 9, 0) : x + 10]
        bends = np.abs(np.diff(1.0 / line.astype(np.float64), 2))  # 1 / depth is linear on a plane
        assert abs(int(bends.argmax()) + 1 - 9) <= 1, name
    lines = Grips(room, LENS, size).lines()
    assert len(lines) == 1 + 2 + 2 * 3 and lines.min() >= -EXACT and lines.max() <= 1.0 + EXACT
    np.testing.assert_allclose(lines[0], [[0.0, 0.45], [1.0, 0.45]])


def test_wall_dragged_out_of_the_picture_or_to_the_horizon_is_none():
    grips = Grips(ROOMS["whole"], LENS, (720, 480))
    assert grips.dragged("left", (-0.01, 0.5)).left == 0.0 == grips.dragged("right", (1.01, 0.5)).right
    assert grips.dragged("ceiling", (0.5, -0.2)).ceiling == 0.0
    assert grips.dragged("wall", (0.5, 0.45)).wall == 0.0 == grips.dragged("wall", (0.5, 0.1)).wall
    nearly = grips.dragged("wall", (0.5, 0.4501))
    assert nearly.wall == 0.0, f"farther than {FAR} eye heights"
    assert grips.dragged("horizon", (0.3, 1.4)).horizon == 1.4


def test_wall_that_is_not_there_comes_in_from_the_border():
    bare = Grips(ROOMS["sky"], LENS, (720, 480))
    places = bare.places()
    assert places["left"][0] == RIM and places["right"][0] == 1.0 - RIM and places["ceiling"][1] == RIM
    assert places["wall"][1] == pytest.approx(0.5)
    assert 1.0 < bare.dragged("wall", (0.5, 0.7)).wall < 20.0
    assert bare.dragged("ceiling", (0.5, 0.2)).ceiling > 1.6
    assert bare.dragged("left", (0.2, 0.8)).left > 0.0 and bare.dragged("right", (0.8, 0.8)).right > 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_dragging_anywhere_gives_a_room_that_can_be(room, name):
    picture = np.zeros((12, 18, 3), np.uint8)
    for u in (-2.0, 0.02, 0.5, 0.98, 3.0):
        for v in (-0.5, 0.1, 0.46, 0.6, 1.3):
            dragged = Grips(room, LENS, (18, 12)).dragged(name, (u, v))
            assert all(np.isfinite(getattr(dragged, one)) for one in NAMES)
            if name != "horizon":
                assert all(getattr(dragged, one) >= NEAREST for one in (name,) if getattr(dragged, one))
            if name in ("eye_height", "horizon") and 0.0 < dragged.ceiling <= dragged.eye_height:
                continue  # refused in words
            if name != "horizon":
                plane_plate(picture, LENS, dragged)
