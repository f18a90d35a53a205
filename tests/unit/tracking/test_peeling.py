# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles with holes: the nearest one that is there wins, however many lie before it; their way through a file."""

import numpy as np
import pytest

from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.cut_outs import AlphaPicture, CutOuts
from das_blender_addon.tracking.geometry import GeometrySequence, Note
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.rasteriser import rasterise
from das_blender_addon.tracking.seen import seen_surfaces
from das_blender_addon.tracking.spool import SpoolWriter, open_spool
from das_blender_addon.tracking.suggest import suggest_key_frames
from das_blender_addon.tracking.surface import corner_weights
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import camera_path, look_at

SIZE = (48, 32)
CHECKERS = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((2, 2), np.uint8))


def cameras(distance=5.0):
    matrices = [look_at((0.3 * step, -distance, 0.2), (0.3 * step, 1.0, 0.0)) for step in range(2)]
    return camera_path(matrices, width=48, height=32)


def cards(count: int, seed=1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [4·n,3], triangles [2·n,3] and UVs of their corners [2·n,3,2] of tilted cards, one behind the other."""
    random = np.random.default_rng(seed)
    corners = np.array([[-1.5, 0, -1], [1.5, 0, -1], [1.5, 0, 1], [-1.5, 0, 1]])
    places = [corners + random.normal(0, 0.2, (4, 3)) + (0, 0.5 * number, 0) for number in range(count)]
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float) * 2.3
    return (
        np.concatenate(places).astype(np.float32),
        np.concatenate([quad + 4 * number for number in range(count)]).astype(np.int32),
        np.concatenate([uv[quad] + random.uniform(0, 1, 2) for _ in range(count)]).astype(np.float32),
    )


def cut_shot(picture, count=6, solid=(5,), distance=5.0):
    """A shot of cards of which all but those numbered ``solid`` are cut out."""
    vertices, triangles, uv = cards(count)
    cut = np.flatnonzero(~np.isin(np.arange(len(triangles)) // 2, solid)).astype(np.int32)
    outs = CutOuts(cut, uv[cut], np.zeros(len(cut), np.int32), (picture,))
    both = np.stack([vertices, vertices + np.float32((0.1, 0, 0))])
    return GeometrySequence(triangles, both, cameras(distance), (1, 2), cut=outs)


def looked_up(geometry, index: int) -> np.ndarray:
    """[H·W]: what each pixel sees, found by drawing every triangle alone and sorting by depth."""
    camera = pinhole_at(geometry.cameras, index)
    points = camera.optical_points(geometry.vertices[index])
    nearest = np.full(camera.width * camera.height, np.inf)
    found = np.full(camera.width * camera.height, -1)
    for number, triangle in enumerate(geometry.triangles):
        pixels = np.flatnonzero(rasterise(points, triangle[None], camera).reshape(-1) == 0)
        weights = corner_weights(pixels, np.zeros(len(pixels), int), triangle[None], points, camera)
        there = np.ones(len(pixels), bool)
        own = np.flatnonzero(geometry.cut.triangles == number)
        if own.size:
            uv = np.einsum("cp,cx->px", weights, geometry.cut.uv[own[0]])
            there = geometry.cut.pictures[geometry.cut.picture[own[0]]].is_there(uv)
        depth = weights.T @ points[triangle, 2]
        closer = there & (depth < nearest[pixels])
        nearest[pixels[closer]], found[pixels[closer]] = depth[closer], number
    return found


@pytest.mark.parametrize("solid, distance", [((5,), 5.0), ((0, 3), 5.0), ((), 5.0), ((5,), 0.05)])
def test_pixels_see_the_nearest_triangle_that_is_there(solid, distance):
    """Also from among the cards, which then cross the near plane."""
    geometry = cut_shot(AlphaPicture(CHECKERS), solid=solid, distance=distance)
    for index in range(2):
        camera = pinhole_at(geometry.cameras, index)
        points = camera.optical_points(geometry.vertices[index])
        pixels, seen = seen_surfaces(points, geometry.triangles, camera, cut=geometry.cut)
        found = np.full(48 * 32, -1)
        found[pixels] = seen
        np.testing.assert_array_equal(found, looked_up(geometry, index))
    assert len(set(seen.tolist())) >= 4


def test_cut_outs_without_a_hole_are_solid_and_without_a_pixel_are_not_there():
    whole, none = AlphaPicture(np.full((2, 2), 255, np.uint8)), AlphaPicture(np.zeros((2, 2), np.uint8))
    for picture, solid in ((whole, (5,)), (none, ())):
        geometry = cut_shot(picture, solid=solid)
        camera = pinhole_at(geometry.cameras, 0)
        points = camera.optical_points(geometry.vertices[0])
        pixels, seen = seen_surfaces(points, geometry.triangles, camera, cut=geometry.cut)
        plain = rasterise(points, geometry.triangles, camera).reshape(-1)
        if picture is whole:
            np.testing.assert_array_equal(seen, plain[plain >= 0])
        else:
            assert not len(pixels) and (plain >= 0).any()


def test_every_station_looks_through_the_holes():
    geometry = cut_shot(AlphaPicture(CHECKERS), count=1, solid=())
    video = render_tracking_video(geometry)
    assert 0.2 < video.coverage.mean() < 0.6
    for frame in correspondences(geometry, (0,)):
        np.testing.assert_array_equal(frame.coverage, video.coverage[frame.index])
    assert suggest_key_frames(geometry).key_indices[0] == 0


# ── Pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────

RAMP = np.array([[0, 100, 200]], np.uint8)


@pytest.mark.parametrize(
    "extension, u, there",
    [
        ("REPEAT", -0.1, True),
        ("EXTEND", -0.1, False),
        ("CLIP", 1.2, False),
        ("EXTEND", 1.2, True),
        ("MIRROR", 1.1, True),
        ("MIRROR", 1.9, False),
        ("REPEAT", 1e30, False),
        ("REPEAT", np.nan, False),
    ],
)
def test_picture_goes_on_beyond_its_borders(extension, u, there):
    picture = AlphaPicture(RAMP, is_smooth=False, extension=extension)
    assert picture.is_there(np.array([[u, 0.5]])).tolist() == [there]


def test_smooth_picture_is_linear_between_the_middles_of_its_pixels():
    picture = AlphaPicture(RAMP, threshold=150.0, extension="EXTEND")
    assert picture.is_there(np.array([[2 / 3 - 0.001, 0.5], [2 / 3 + 0.001, 0.5]])).tolist() == [False, True]
    inverted = AlphaPicture(RAMP, threshold=150.0, extension="EXTEND", is_inverted=True)
    assert inverted.is_there(np.array([[2 / 3 - 0.001, 0.5], [2 / 3 + 0.001, 0.5]])).tolist() == [True, False]


def test_cut_outs_and_notes_travel_through_a_spool(tmp_path):
    geometry = cut_shot(AlphaPicture(CHECKERS, 100.5, True, False, "CLIP"))
    writer = SpoolWriter(tmp_path)
    for vertices in geometry.vertices:
        writer.add(vertices)
    order = np.arange(geometry.vertices.shape[1])
    note = Note("Smoke", "volume", "is a volume")
    writer.finish(geometry.triangles, order, geometry.cameras, (1, 2), "", (note,), geometry.cut)
    read = open_spool(tmp_path)
    assert read.notes == (note,)
    assert note.sentence == "'Smoke' is a volume."
    (picture,) = read.cut.pictures
    assert (picture.threshold, picture.is_inverted, picture.is_smooth) == (100.5, True, False)
    assert picture.extension == "CLIP"
    np.testing.assert_array_equal(render_tracking_video(read).coverage, render_tracking_video(geometry).coverage)
