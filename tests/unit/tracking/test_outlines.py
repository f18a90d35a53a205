# SPDX-License-Identifier: GPL-3.0-or-later
"""Who hides whom in the first frame is exact between the centres of pixels, too."""

import numpy as np
import pytest

from das_blender_addon.tracking import visibility
from das_blender_addon.tracking.cut_outs import AlphaPicture, CutOuts
from das_blender_addon.tracking.projection import Pinhole
from das_blender_addon.tracking.seen import seen_surfaces
from das_blender_addon.tracking.surface import interpolate_on_surface
from das_blender_addon.tracking.visibility import FirstView

WIDTH, HEIGHT = 61, 43
NEAR, FAR, BEHIND = 4.0, 9.0, 9.5


def camera(is_orthographic):
    return Pinhole(
        np.eye(4), (6.1, 6.1) if is_orthographic else (50.0, 55.0), (30.2, 21.7), 0.1, WIDTH, HEIGHT, 100.0,
        virtual_distance=2.0 if is_orthographic else 0.0,
    )  # fmt: skip


def at(camera, xy, depth):
    """Optical points [P,3] that are seen at ``xy`` [P,2] at ``depth`` [P]."""
    places = (xy - camera.principal_px) / camera.focal_px
    if not camera.is_orthographic:
        places = places * depth[:, None]
    return np.column_stack([places, depth])


def view_of(camera, points, triangles, **how):
    pixels, seen = seen_surfaces(points, triangles, camera, cut=how.get("cut"))
    depth = interpolate_on_surface(pixels, seen, triangles, points, points, camera)[:, 2]
    return FirstView.of(pixels, depth, seen, triangles, points, camera, **how), pixels, depth


def fan(camera, count, radius):
    """A wall, and before it a disc of ``count`` triangles around (29.3, 20.6), ``radius`` pixels."""
    wall = at(camera, np.array([[-90.0, -90], [150, -90], [150, 140], [-90, 140]]), np.full(4, FAR))
    turn = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False) + 0.1
    rim = np.stack([29.3 + radius * np.cos(turn), 20.6 + radius * np.sin(turn)], axis=1)
    disc = at(camera, np.vstack([[29.3, 20.6], rim]), np.full(count + 1, NEAR))
    number = np.arange(count)
    faces = np.stack([np.full(count, 4), 5 + number, 5 + (number + 1) % count], axis=1)
    return np.vstack([wall, disc]), np.vstack([[[0, 1, 2], [0, 2, 3]], faces])


def inside_fan(xy, count, radius):
    """Whether ``xy`` [P,2] is in the disc, and how far it is from its rim, pixels."""
    middles = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False) + 0.1 + np.pi / count
    across = (xy - (29.3, 20.6)) @ np.stack([np.cos(middles), np.sin(middles)])
    beyond = (across - radius * np.cos(np.pi / count)).max(axis=1)
    return beyond < 0.0, np.abs(beyond)


@pytest.mark.parametrize("is_orthographic", [False, True])
@pytest.mark.parametrize(("count", "radius"), [(3, 12.0), (64, 15.3), (700, 17.0), (40, 2.2)])
def test_every_place_around_an_outline_is_decided_exactly(count, radius, is_orthographic):
    own = camera(is_orthographic)
    points, triangles = fan(own, count, radius)
    view, pixels, depth = view_of(own, points, triangles)
    xy = np.random.default_rng(2).uniform((1.0, 1.0), (WIDTH - 1.0, HEIGHT - 1.0), (20000, 2))
    inside, clear = inside_fan(xy, count, radius)
    for far in (FAR, BEHIND, NEAR):
        shown = view.shows(xy, np.full(len(xy), far))
        expected = np.full(len(xy), far < BEHIND) & ~(inside & (far > NEAR))
        assert (shown == expected)[clear > 1e-3].all(), far
    centres = np.stack([pixels % WIDTH, pixels // WIDTH], axis=1) + 0.5
    assert view.shows(centres, depth).all(), "the first frame shows what it shows"
    rough, _, _ = view_of(own, points, triangles, is_exact=False)
    wrong = (rough.shows(xy, np.full(len(xy), FAR)) == inside)[clear > 1e-3].mean()
    assert wrong > 0.001, "a test that cannot fail"


def test_triangles_with_holes_hide_nothing_exactly():
    """What is seen at the centres decides there, as everywhere else."""
    own = camera(False)
    points, triangles = fan(own, 40, 12.0)
    cut = CutOuts(
        np.arange(2, 42, dtype=np.int32),
        np.zeros((40, 3, 2), np.float32),
        np.zeros(40, np.int32),
        (AlphaPicture(np.zeros((1, 1), np.uint8)),),
    )
    view, _, _ = view_of(own, points, triangles, cut=cut)
    xy = np.random.default_rng(3).uniform((1.0, 1.0), (WIDTH - 1.0, HEIGHT - 1.0), (5000, 2))
    assert view.shows(xy, np.full(len(xy), FAR)).all()


def test_surfaces_before_the_near_plane_and_edge_on_hide_nothing():
    own = camera(False)
    points, triangles = fan(own, 40, 12.0)
    close = at(own, np.array([[20.0, 10.0], [40.0, 10.0], [30.0, 35.0]]), np.full(3, 0.05))
    edge = at(own, np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]), np.array([2.0, 2.0, 2.0]))
    more = np.vstack([points, close, edge])
    faces = np.vstack([triangles, [[45, 46, 47], [48, 49, 50]]])
    xy = np.random.default_rng(4).uniform((1.0, 1.0), (WIDTH - 1.0, HEIGHT - 1.0), (5000, 2))
    depth = np.full(len(xy), FAR)
    expected = view_of(own, points, triangles)[0].shows(xy, depth)
    np.testing.assert_array_equal(view_of(own, more, faces)[0].shows(xy, depth), expected)


def test_view_of_nothing_and_questions_about_nothing():
    own = camera(False)
    points, triangles = fan(own, 5, 9.0)
    view, _, _ = view_of(own, points, triangles)
    assert view.shows(np.zeros((0, 2)), np.zeros(0)).shape == (0,)
    assert not view.shows(np.full((1, 2), np.nan), np.array([1.0])).any()
    nothing, _, _ = view_of(own, points, triangles[:0])
    assert nothing.shows(np.array([[3.2, 4.1]]), np.array([5.0])).all()
    assert visibility.VISIBLE_DEPTH_SHARE < 1e-3
