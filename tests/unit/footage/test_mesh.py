# SPDX-License-Identifier: GPL-3.0-or-later
"""Pixels → surface: where it lies, where it is cut, and that the first picture has no gap."""

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.footage.layers import BACKGROUND, SKY, layers_of
from das_blender_addon.footage.mesh import check_quads, mesh_of_depth
from das_blender_addon.footage.plate import Plate
from das_blender_addon.tracking.projection import Pinhole
from das_blender_addon.tracking.rasteriser import NO_TRIANGLE, rasterise
from das_blender_addon.tracking.surface import interpolate_on_surface

WIDTH, HEIGHT, FOCAL = 41, 30, 50.0
PLANE = np.array([0.05, 0.25, 0.16])
ROUNDING = 2e-6
"""Vertices are float32."""


def camera() -> Pinhole:
    return Pinhole(np.eye(4), (FOCAL, FOCAL), (WIDTH / 2, HEIGHT / 2), 1e-3, WIDTH, HEIGHT)


def rays() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    return np.stack([(x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL, np.ones_like(x)], axis=-1)


def floor() -> np.ndarray:
    """Depth of a plane that recedes: n·p = 1."""
    return (1.0 / (rays() @ PLANE)).astype(np.float32)


def seen_depth(*meshes) -> np.ndarray:
    """[H,W] the depth that the camera sees; inf where it sees nothing."""
    points = np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float64)
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    quads = np.concatenate([mesh.quads + start for mesh, start in zip(meshes, starts, strict=False)])
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    seen = rasterise(points, triangles, camera()).reshape(-1)
    pixels = np.flatnonzero(seen != NO_TRIANGLE)
    depth = np.full(seen.shape, np.inf)
    depth[pixels] = interpolate_on_surface(pixels, seen[pixels], triangles, points, points, camera())[:, 2]
    return depth.reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("every", [1, 3])
def test_plane_is_exact_to_the_picture_border_at_any_density(every):
    depth = floor()
    mesh = mesh_of_depth(depth, np.ones(depth.shape, bool), FOCAL, every)
    np.testing.assert_allclose(mesh.vertices @ PLANE, 1.0, rtol=ROUNDING)
    np.testing.assert_allclose(seen_depth(mesh), depth, rtol=ROUNDING)
    cells = -(-HEIGHT // every) * -(-WIDTH // every)
    assert len(mesh.quads) == cells and len(mesh.vertices) == (-(-HEIGHT // every) + 1) * (-(-WIDTH // every) + 1)
    assert mesh.pixels.min() == 0.0 and mesh.pixels.max(axis=0).tolist() == [WIDTH, HEIGHT]


def test_quads_face_the_camera():
    mesh = mesh_of_depth(floor(), np.ones((HEIGHT, WIDTH), bool), FOCAL)
    a, b, c = (mesh.vertices[mesh.quads[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    assert len(normals) and (np.einsum("mk,mk->m", normals, -a) > 0.0).all()


def test_surface_is_cut_between_pixels_where_depth_jumps_and_leaves_no_gap():
    depth = floor()
    near = np.zeros(depth.shape, bool)
    near[8:20, 10:25] = True
    depth[near] = 0.9
    mesh = mesh_of_depth(depth, np.ones(depth.shape, bool), FOCAL)
    ends = mesh.vertices[mesh.quads][..., 2]
    share = ends.min(axis=1) / ends.max(axis=1)
    assert share.min() > 0.8, "no quad spans two surfaces"
    np.testing.assert_allclose(seen_depth(mesh)[near], 0.9, rtol=ROUNDING)
    apart = np.pad(near, 1)
    around = apart[:-2, 1:-1] | apart[2:, 1:-1] | apart[1:-1, :-2] | apart[1:-1, 2:]
    np.testing.assert_allclose(seen_depth(mesh)[~near & ~around], depth[~near & ~around], rtol=ROUNDING)
    assert np.isfinite(seen_depth(mesh)).all()


def test_pixel_of_its_own_is_a_quad_of_its_own():
    depth = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    depth[10, 10] = 1.0
    mesh = mesh_of_depth(depth, np.ones(depth.shape, bool), FOCAL)
    assert len(mesh.vertices) == (HEIGHT + 1) * (WIDTH + 1) + 4
    assert seen_depth(mesh)[10, 10] == pytest.approx(1.0) and len(mesh.quads) == HEIGHT * WIDTH


def test_mesh_that_is_too_large_and_mask_that_is_too_thin_are_refused():
    check_quads((720, 480), 1)
    with pytest.raises(SettingsError, match="3840×2160 pixels would have 8294400 quads.*--every 3"):
        check_quads((3840, 2160), 1)
    check_quads((3840, 2160), 3)
    line = np.zeros((HEIGHT, WIDTH), bool)
    line[0] = True
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    plate = Plate(picture, floor(), np.ones(line.shape, bool), 35.0, {"line": line})
    with pytest.raises(SettingsError, match="'line' falls between quads of 3×3"):
        layers_of(plate, 3)


def test_layers_are_things_background_and_sky_and_cover_the_picture():
    picture = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:6] = False
    thing = np.zeros(valid.shape, bool)
    thing[4:20, 10:20] = True
    depth = np.where(thing, 0.7, floor()).astype(np.float32)
    plate = Plate(picture, np.where(valid | thing, depth, 0), valid | thing, 36.0 * FOCAL / WIDTH, {"cup": thing})
    layers = layers_of(plate)
    assert [part.name for part in layers.parts] == [BACKGROUND, SKY, "cup"]
    whole = seen_depth(*(part.mesh for part in layers.parts))
    np.testing.assert_allclose(whole[thing], 0.7, rtol=ROUNDING)
    behind = seen_depth(*(part.mesh for part in layers.parts[:2]))
    assert np.isfinite(behind).all() and (behind[thing] > 0.7).all()
    np.testing.assert_allclose(behind[12:20, 10:20], floor()[12:20, 10:20], rtol=0.1)
    assert (layers.background[~thing] == picture[~thing]).all() and (layers.filled == thing).all()
    assert not (layers.background[thing] == picture[thing]).all()
