# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracking video of the golden Blender scene against exact per-pixel colours made without this project."""

import json
from pathlib import Path

import numpy as np
import pytest

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.rasteriser import NO_TRIANGLE, rasterise
from das_blender_addon.tracking.surface import interpolate_on_surface
from das_blender_addon.tracking.video import render_tracking_video

GOLDEN = Path(__file__).parent / "golden" / "blender"

#: The golden colours are the mean of 4×4 samples in a pixel, rounded; ours are the value at its centre, rounded.  On a
#: smooth surface the two differ by half a level of each rounding and the curvature within a pixel.
MEAN_LEVELS = 0.3
MOST_LEVELS = 2
#: Depth bends at the cube's edges, and the golden mean looks at both faces in such a pixel.
MOST_LEVELS_AT_CREASES = 4
#: Samples of a pixel whose point lay this close to the first frame's border are partly black in the golden mean.
BORDER_PX = 1.5
MIXED = 255


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "scene.npz") as scene, np.load(GOLDEN / "ideal.npz") as ideal:
        return {**scene, **ideal}


@pytest.fixture(scope="module")
def geometry(golden):
    return _geometry(golden)[0]


def _geometry(golden):
    """The scene and the object number of each triangle."""
    numbers = json.loads((GOLDEN / "meta.json").read_text())["object_ids"]
    vertices, triangles, owners, offset = [], [], [], 0
    for name, number in numbers.items():
        vertices.append(golden[f"verts_{name}"])
        triangles.append(golden[f"tris_{name}"] + offset)
        owners.append(np.full(len(triangles[-1]), number))
        offset += vertices[-1].shape[1]
    height, width = (int(side) for side in golden["size_hw"])
    camera_matrix, count = golden["K"], len(vertices[0])
    cameras = CameraPath(
        camera_from_world=np.linalg.inv(golden["camera_to_world"]),
        focal_px=np.tile([camera_matrix[0, 0], camera_matrix[1, 1]], (count, 1)),
        principal_px=np.tile([camera_matrix[0, 2], camera_matrix[1, 2]], (count, 1)),
        clip_start=np.full(count, golden["clip"][0]),
        clip_end=np.full(count, golden["clip"][1]),
        width=width,
        height=height,
    )
    geometry = GeometrySequence(
        np.concatenate(triangles).astype(np.int32),
        np.concatenate(vertices, axis=1),
        cameras,
        tuple(range(1, count + 1)),
    )
    return geometry, np.concatenate(owners)


def _comparable(golden, first_frame_xy, width, height):
    """[T,H,W] bool: pixels filled by one object whose points lay clear of the first frame's border."""
    interior = np.unpackbits(golden["interior_mask"], axis=-1)[..., :width].astype(bool)
    x, y = first_frame_xy[..., 0], first_frame_xy[..., 1]
    with np.errstate(invalid="ignore"):
        near_x = np.minimum(np.abs(x), np.abs(x - width)) < BORDER_PX
        near_y = np.minimum(np.abs(y), np.abs(y - height)) < BORDER_PX
    return interior & ~near_x & ~near_y


def test_coverage_and_objects_equal_the_golden_scene(golden):
    geometry, owners = _geometry(golden)

    for index in range(geometry.num_frames):
        camera = pinhole_at(geometry.cameras, index)
        seen = rasterise(camera.optical_points(geometry.vertices[index]), geometry.triangles, camera)
        objects = np.where(seen == NO_TRIANGLE, 0, owners[seen])
        pure = golden["object_id"][index] != MIXED
        np.testing.assert_array_equal(objects[pure], golden["object_id"][index][pure])


def test_red_and_green_equal_the_golden_colours(golden, geometry):
    video = render_tracking_video(geometry, inverse_depth_range=tuple(golden["inverse_depth_range"]))

    compared = _comparable(golden, video.first_frame_xy, geometry.cameras.width, geometry.cameras.height)
    error = np.abs(video.video.astype(int) - golden["per_pixel_u8"])[..., :2][compared]
    assert compared.mean() > 0.45
    assert error.mean() < MEAN_LEVELS and error.max() <= MOST_LEVELS


def test_blue_equals_the_golden_colours_in_the_references_measure(golden, geometry):
    low, high = golden["inverse_depth_range"]
    video = render_tracking_video(geometry, inverse_depth_range=(low, high))
    compared = _comparable(golden, video.first_frame_xy, geometry.cameras.width, geometry.cameras.height)
    first = pinhole_at(geometry.cameras, 0).optical_points(geometry.vertices[0])
    errors = []
    for index in range(geometry.num_frames):
        camera = pinhole_at(geometry.cameras, index)
        points = camera.optical_points(geometry.vertices[index])
        seen = rasterise(points, geometry.triangles, camera).reshape(-1)
        pixels = np.flatnonzero(compared[index] & video.video[index].any(axis=-1))
        places = interpolate_on_surface(pixels, seen[pixels], geometry.triangles, points, first, camera)
        nearness = (1.0 / np.linalg.norm(places, axis=1) - low) / (high - low)
        expected = golden["per_pixel_u8"][index].reshape(-1, 3)[pixels, 2]
        errors.append(np.abs(255.0 * np.clip(nearness, 0, 1) - expected))
    errors = np.concatenate(errors)

    assert errors.mean() < MEAN_LEVELS and errors.max() <= MOST_LEVELS_AT_CREASES


def test_own_depth_range_spans_the_visible_pixels(geometry):
    video = render_tracking_video(geometry)

    blue = video.video[0][video.coverage[0]][:, 2]
    # 2 % of the first frame's pixels are clipped at either end, by the definition of the range.
    assert 0.015 < (blue == 0).mean() < 0.03 and 0.015 < (blue == 255).mean() < 0.03
