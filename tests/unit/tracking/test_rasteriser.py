# SPDX-License-Identifier: GPL-3.0-or-later
"""The rasteriser's exactness: fill rule, cracks, depth order, clipping, degenerate input, chunks."""

import numpy as np
import pytest

from das_blender_addon.tracking import rasteriser
from das_blender_addon.tracking.projection import Pinhole
from das_blender_addon.tracking.rasteriser import NO_TRIANGLE, rasterise

WIDTH, HEIGHT = 40, 30


def flat_camera(width=WIDTH, height=HEIGHT, clip_start=0.1):
    """A camera for which points at depth 1 have their pixel coordinates as x and y."""
    return Pinhole(np.eye(4), (1.0, 1.0), (0.0, 0.0), clip_start, width, height)


def flat(*corners, depth=1.0):
    """Optical points that project to pixel ``corners`` (x, y) at one depth."""
    corners = np.array(corners, dtype=np.float64)
    return np.concatenate([corners * depth, np.full((len(corners), 1), depth)], axis=1)


def covered(points, triangles, camera=None):
    return rasterise(points, np.asarray(triangles), camera or flat_camera()) != NO_TRIANGLE


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("size", [3, 20])
def test_rasterise_draws_both_sides_in_any_corner_order(order, size):
    # The right triangle with legs on pixel borders holds the centres strictly below its diagonal, and none on it.
    points = flat((2, 2), (2 + size, 2), (2, 2 + size))

    result = covered(points, [order])

    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    expected = (x > 2) & (y > 2) & ((x - 2) + (y - 2) < size)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("size", [2, 15])
def test_rasterise_gives_centres_on_a_border_to_top_and_left_edges(size):
    # All four edges run through pixel centres: rows and columns 3 … 3+size−1 belong to the square, the last ones do
    # not.
    low, high = 3.5, 3.5 + size
    points = flat((low, low), (high, low), (high, high), (low, high))

    result = covered(points, [(0, 1, 2), (0, 2, 3)])

    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3 : 3 + size, 3 : 3 + size] = True
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("spacing", [0.5, 1.0, 2.5, 9.0])
@pytest.mark.parametrize("seed", range(3))
def test_rasterise_covers_every_pixel_of_a_mesh_exactly_once(seed, spacing):
    # A grid with corners on pixel centres, jittered by quarters of a cell: many edges and corners stay on centres, and
    # no triangle turns over.
    rng = np.random.default_rng(seed)
    camera = flat_camera(16, 12)
    columns, rows = int(16 / spacing) + 4, int(12 / spacing) + 4
    y, x = np.mgrid[0:rows, 0:columns] * spacing - spacing - 0.5
    jitter = rng.integers(-1, 2, (2, rows, columns)) * spacing / 4
    points = flat(*np.stack([x + jitter[0], y + jitter[1]], axis=-1).reshape(-1, 2))
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    triangles = np.concatenate(
        [np.stack([a, a + 1, a + columns], axis=1), np.stack([a + 1, a + columns + 1, a + columns], axis=1)]
    )
    triangles = triangles[rng.permutation(len(triangles))]

    count = sum(covered(points, triangle[None], camera).astype(int) for triangle in triangles)

    np.testing.assert_array_equal(count, 1)
    assert covered(points, triangles, camera).all()


def test_rasterise_covers_a_fan_around_a_pixel_centre_exactly_once():
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = np.stack([15.5 + 200 * np.cos(angles), 12.5 + 200 * np.sin(angles)], axis=-1)
    points = flat((15.5, 12.5), *rim)
    triangles = np.array([(0, 1 + i, 1 + (i + 1) % 24) for i in range(24)])

    count = sum(covered(points, triangle[None]).astype(int) for triangle in triangles)

    np.testing.assert_array_equal(count, 1)


@pytest.mark.parametrize("size", [3.0, 18.0])
def test_rasterise_equals_exact_integer_edge_functions(size):
    rng = np.random.default_rng(int(size))
    centres = rng.uniform((0, 0), (WIDTH, HEIGHT), (60, 1, 2))
    # Corners on eighths of a pixel: centres on edges are common.
    corners = np.round((centres + rng.uniform(-size, size, (60, 3, 2))) * 8) / 8
    for triangle in corners:
        expected = _inside_by_python_integers(triangle)
        np.testing.assert_array_equal(covered(flat(*triangle), [(0, 1, 2)]), expected)


def _inside_by_python_integers(corners):
    """The top-left rule in unbounded Python integers, one pixel at a time; a triangle without area holds nothing."""
    points = [(int(x * 1024), int(y * 1024)) for x, y in corners]

    def cross(a, b, p):
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    if cross(*points) < 0:
        points = [points[0], points[2], points[1]]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            p = (column * 1024 + 512, row * 1024 + 512)
            ok = cross(*points) != 0
            for a, b in zip(points, points[1:] + points[:1], strict=True):
                value = cross(a, b, p)
                left = b[1] < a[1]
                top = b[1] == a[1] and b[0] > a[0]
                ok = ok and (value > 0 or (value == 0 and (left or top)))
            inside[row, column] = ok
    return inside


def test_rasterise_keeps_the_nearest_surface_in_any_order():
    points = np.concatenate([flat((0, 0), (80, 0), (0, 80), depth=d) for d in (3.0, 1.0, 2.0)])
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        triangles = np.array([(3 * i, 3 * i + 1, 3 * i + 2) for i in order])

        result = rasterise(points, triangles, flat_camera())

        assert (result == order.index(1)).all()


def test_rasterise_intersecting_triangles_part_where_depths_are_equal():
    # 1/depth of both is linear in x; they cross at x = 20.
    near_left = np.array([[0, 0, 1], [80, 0, 2], [0, 60, 1.0]]) * 1.0
    near_left[:, :2] *= near_left[:, 2:]
    inverse = 1 / near_left[:, 2]
    other = np.array([[0, 0], [80, 0], [0, 60.0]])
    at_20 = inverse[0] + (inverse[1] - inverse[0]) * 20 / 80
    flat_depth = 1 / at_20
    points = np.concatenate([near_left, np.c_[other * flat_depth, np.full(3, flat_depth)]])

    result = rasterise(points, np.array([[0, 1, 2], [3, 4, 5]]), flat_camera())

    assert (result[:, :20] == 0).all() and (result[:, 20:] == 1).all()


@pytest.mark.parametrize("size", [3, 20])
def test_rasterise_gives_equal_depths_to_the_lower_index(size):
    points = flat((2, 2), (2 + size, 2), (2, 2 + size))

    result = rasterise(points, np.array([[2, 1, 0], [0, 1, 2], [1, 2, 0]]), flat_camera())

    assert set(np.unique(result)) == {NO_TRIANGLE, 0}


def test_rasterise_handles_many_layers_on_one_pixel():
    # More candidates on one pixel than scatter rounds, in the worst order: each nearer than the one before.
    depths = np.linspace(1.0, 2.0, 500)
    points = np.concatenate([flat((5, 5), (7, 5), (5, 7), depth=d) for d in depths])
    triangles = np.arange(1500).reshape(-1, 3)

    assert rasterise(points, triangles, flat_camera())[5, 5] == 0
    assert rasterise(points, triangles[::-1], flat_camera())[5, 5] == 499


def test_rasterise_fills_the_picture_from_a_triangle_far_larger():
    points = np.array([[-1e7, -1e7, 5.0], [1e7, -1e7, 5.0], [0.0, 1e7, 5.0]])
    camera = Pinhole(np.eye(4), (800.0, 800.0), (20.0, 15.0), 0.1, WIDTH, HEIGHT)

    assert covered(points, [(0, 1, 2)], camera).all()


def test_rasterise_shares_the_edge_of_two_clipped_giants_without_cracks():
    camera = Pinhole(np.eye(4), (800.0, 800.0), (20.3, 15.1), 0.1, WIDTH, HEIGHT)
    # A ground plane one unit below the camera that reaches far behind it.
    points = np.array([[-5e5, 1, -5e5], [5e5, 1, -5e5], [5e5, 1, 5e5], [-5e5, 1, 5e5]], dtype=float)

    count = covered(points, [(0, 1, 2)], camera).astype(int) + covered(points, [(0, 2, 3)], camera)

    np.testing.assert_array_equal(count[16:], 1)
    np.testing.assert_array_equal(count[:15], 0)


def test_rasterise_cuts_at_the_near_plane():
    # The ground seen from height 1, focal length 10: row y shows depth 10 / (y − 5). Beyond depth 2 only rows above y =
    # 10.
    camera = Pinhole(np.eye(4), (10.0, 10.0), (20.0, 5.0), 2.0, WIDTH, HEIGHT)
    points = np.array([[-500, 1, -50], [500, 1, -50], [500, 1, 500], [-500, 1, 500]], dtype=float)

    rows = covered(points, [(0, 1, 2), (0, 2, 3)], camera).any(axis=1)

    np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(5, 10))


def test_rasterise_draws_nothing_behind_the_camera():
    points = flat((0, 0), (40, 0), (0, 40))
    points[:, 2] *= -1

    assert not covered(points, [(0, 1, 2)]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_rasterise_ignores_triangles_with_non_finite_corners(bad):
    points = np.concatenate([flat((0, 0), (80, 0), (0, 80)), flat((0, 0), (9, 0), (0, 9), depth=0.5)])
    points[4, 1] = bad

    result = rasterise(points, np.array([[3, 4, 5], [0, 1, 2]]), flat_camera())

    assert (result == 1).all()


@pytest.mark.filterwarnings("error")
def test_rasterise_ignores_triangles_without_area():
    line, point, level = ((1, 1), (30, 20), (30, 20)), ((3, 3), (3, 3), (3, 3)), ((0, 5.5), (9, 5.5), (30, 5.5))
    points = np.concatenate([flat(*line), flat(*point), flat(*level), np.zeros((3, 3))])

    assert not covered(points, np.arange(12).reshape(4, 3)).any()


def test_rasterise_accepts_no_triangles():
    assert not covered(np.zeros((0, 3)), np.zeros((0, 3), int)).any()


def test_rasterise_drops_triangles_between_pixel_centres():
    points = flat((4.6, 4.6), (5.4, 4.6), (5.0, 5.4))

    assert not covered(points, [(0, 1, 2)]).any()


@pytest.mark.parametrize("name", ["_TRIANGLES_PER_CHUNK", "_ROWS_PER_CHUNK", "_CANDIDATES_PER_CHUNK", "_LARGE_PX"])
def test_rasterise_does_not_depend_on_chunk_sizes(monkeypatch, name):
    rng = np.random.default_rng(3)
    corners = rng.uniform((-5, -5), (45, 35), (400, 1, 2)) + rng.normal(0, 4, (400, 3, 2))
    depths = rng.uniform(1, 9, 400)
    points = np.concatenate([flat(*triangle, depth=d) for triangle, d in zip(corners, depths, strict=True)])
    triangles = np.arange(1200).reshape(-1, 3)
    whole = rasterise(points, triangles, flat_camera())

    monkeypatch.setattr(rasteriser, name, 7)

    np.testing.assert_array_equal(rasterise(points, triangles, flat_camera()), whole)


def test_rasterise_enters_large_triangles_as_it_enters_small_ones(monkeypatch):
    """Also behind a layer that was peeled off, where slopes are steep, and where triangles reach beyond the picture."""
    rng = np.random.default_rng(8)
    corners = rng.uniform((-30, -30), (170, 130), (90, 3, 2))
    corners[60:, 2] = corners[60:, 0] + rng.normal(0, 3, (30, 2))
    points = np.concatenate([corners, np.ones((90, 3, 1))], axis=2) * rng.uniform(1, 9, (90, 3, 1))
    points, triangles = points.reshape(-1, 3), np.arange(270).reshape(-1, 3)
    camera = flat_camera(140, 101)
    layers = []
    for smallest in (1 << 40, 1 << 11, 0):
        monkeypatch.setattr(rasteriser, "_LARGE_PX", smallest)
        first, second = np.zeros(140 * 101, np.uint64), np.zeros(140 * 101, np.uint64)
        rasteriser.draw(first, points, triangles, camera)
        rasteriser.draw(second, points, triangles, camera, beyond=first)
        layers.append(np.stack([first, second]))

    assert (layers[0][0] > layers[0][1]).any() and (layers[0][1] > 0).any()
    np.testing.assert_array_equal(layers[1], layers[0])
    np.testing.assert_array_equal(layers[2], layers[0])


def test_rasterise_needle_thin_triangles_keep_their_depth():
    # Needles across the picture at depth 2 behind a wall at depth 1: none may come through.
    rng = np.random.default_rng(4)
    starts, ends = rng.uniform(-1e4, 0, (300, 2)), rng.uniform(40, 1e4, (300, 2))
    needles = np.stack([starts, ends, ends + rng.uniform(-2e-3, 2e-3, (300, 2))], axis=1)
    depths = rng.uniform(1.01, 50.0, (300, 3, 1))
    points = np.concatenate([needles, np.ones((300, 3, 1))], axis=2) * depths
    wall = flat((-10, -10), (200, -10), (-10, 200))
    points = np.concatenate([wall, points.reshape(-1, 3)])

    result = rasterise(points, np.arange(903).reshape(-1, 3), flat_camera())

    assert (result == 0).all()


def test_rasterise_calls_check_and_lets_its_error_through():
    class Stopped(Exception):
        pass

    def check():
        raise Stopped

    with pytest.raises(Stopped):
        rasterise(flat((0, 0), (9, 0), (0, 9)), np.array([[0, 1, 2]]), flat_camera(), check=check)
