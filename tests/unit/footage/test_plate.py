# SPDX-License-Identifier: GPL-3.0-or-later
"""Plates: their folder, depth files, masks, and the plane that needs no estimator."""

import json
import math

import numpy as np
import pytest

from das_blender_addon.errors import FirstFrameError, SettingsError, StorageError
from das_blender_addon.footage.depth_files import MEDIAN_DEPTH, read_depth
from das_blender_addon.footage.masks import read_mask
from das_blender_addon.footage.plane import Room, plane_plate
from das_blender_addon.footage.plate import Plate, check_colours, is_plate, load_plate, save_plate
from das_blender_addon.protocol.png import encode_png
from tests.support.picture_files import grey16_png

SHAPE = (20, 30)
DEPTH = np.linspace(1.0, 4.0, 600).reshape(SHAPE).astype(np.float32)
PICTURE = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)


def test_plate_comes_back_from_its_folder(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[3:9, 4:8] = True
    plate = Plate(PICTURE, DEPTH, DEPTH < 3.9, 28.0, {"cup": mask}, 1.2, 7.0, "a test")
    assert not is_plate(tmp_path)
    save_plate(plate, tmp_path / "plate")
    again = load_plate(tmp_path / "plate")
    assert (again.lens_mm, again.eye_height, again.pitch_degrees, again.source) == (28.0, 1.2, 7.0, "a test")
    for name, array in (("picture", PICTURE), ("depth", DEPTH), ("valid", DEPTH < 3.9)):
        np.testing.assert_array_equal(getattr(again, name), array)
    np.testing.assert_array_equal(again.masks["cup"], mask)
    (tmp_path / "plate" / "plate.npz").write_bytes(b"no")
    with pytest.raises(StorageError, match="cannot be read"):
        load_plate(tmp_path / "plate")


def test_plates_whose_parts_do_not_fit_are_refused():
    valid = np.ones(SHAPE, bool)
    with pytest.raises(SettingsError, match="30×20"):
        Plate(PICTURE, DEPTH[:5], valid, 35.0)
    with pytest.raises(SettingsError, match="no distance"):
        Plate(PICTURE, DEPTH - 2.0, valid, 35.0)
    with pytest.raises(SettingsError, match="lens is 0"):
        Plate(PICTURE, DEPTH, valid, 0.0)
    with pytest.raises(FirstFrameError, match="one colour everywhere"):
        check_colours(np.zeros((*SHAPE, 3), np.uint8), "The picture")


def test_depth_of_every_kind_means_what_is_said_of_it(tmp_path):
    np.save(tmp_path / "d.npy", DEPTH)
    np.save(tmp_path / "i.npy", 1.0 / DEPTH)
    (tmp_path / "i.npy.json").write_text(json.dumps({"kind": "inverse", "scale": 2.0}))
    np.savez(tmp_path / "z.npz", depth=DEPTH, mask=DEPTH < 3.0, kind="metric")
    (tmp_path / "p.png").write_bytes(grey16_png(np.rint(DEPTH * 1000)))
    np.testing.assert_array_equal(read_depth(tmp_path / "d.npy", SHAPE, kind="metric")[0], DEPTH)
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", SHAPE, kind="metric", scale=0.5)[0], DEPTH / 2)
    relative = read_depth(tmp_path / "d.npy", SHAPE, kind="relative")[0]
    assert np.median(relative) == pytest.approx(MEDIAN_DEPTH)
    np.testing.assert_allclose(relative / DEPTH, relative[0, 0] / DEPTH[0, 0], rtol=1e-5)
    np.testing.assert_allclose(read_depth(tmp_path / "i.npy", SHAPE)[0], 2 * DEPTH, rtol=1e-5)
    depth, valid = read_depth(tmp_path / "z.npz", SHAPE)
    np.testing.assert_array_equal(valid, DEPTH < 3.0)
    np.testing.assert_array_equal(depth[valid], DEPTH[valid])
    np.testing.assert_allclose(
        read_depth(tmp_path / "p.png", SHAPE, kind="metric", scale=0.001)[0], DEPTH, atol=6e-4
    )


def test_what_is_no_distance_is_sky(tmp_path):
    values = DEPTH.copy()
    values[0, :5] = [0.0, -1.0, np.inf, np.nan, 1e9]
    np.save(tmp_path / "d.npy", values)
    depth, valid = read_depth(tmp_path / "d.npy", SHAPE, kind="metric")
    assert not valid[0, :5].any() and valid.sum() == values.size - 5 and np.isfinite(depth).all()


@pytest.mark.parametrize(
    ("name", "content", "asked", "said"),
    [
        ("d.npy", DEPTH, {}, "does not say what its values mean"),
        ("d.npy", DEPTH, {"kind": "meters"}, "'meters' is unknown"),
        ("d.npy", DEPTH[:10], {"kind": "metric"}, "30×10 values and the picture 30×20"),
        ("d.npy", np.zeros(SHAPE), {"kind": "metric"}, "no depth anywhere"),
        ("d.npy", DEPTH, {"kind": "metric", "scale": -1.0}, "number above 0"),
        ("d.npy", DEPTH.astype(complex), {"kind": "metric"}, "no array of numbers"),
        ("d.npy", DEPTH > 2.0, {"kind": "metric"}, "no array of numbers"),
        ("d.npy", np.full(SHAPE, "x"), {"kind": "metric"}, "no array of numbers"),
        ("d.npy", 1e29 * DEPTH, {"kind": "metric"}, "metres away, with a scale of 1"),
        ("d.npy", DEPTH, {"kind": "metric", "scale": 1e-9}, "give the scale"),
        ("d.npy", b"nothing", {"kind": "metric"}, "cannot be read"),
        ("d.png", grey16_png(DEPTH), {"kind": "metric"}, "how many metres"),
        ("d.png", encode_png(PICTURE), {"kind": "relative"}, "16-bit grey PNG"),
        ("d.tif", b"II*", {"kind": "metric"}, "give one of .npy, .npz, .png, .exr"),
        ("", None, {"kind": "metric"}, "no depth file"),
    ],
)
def test_depth_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, name, content, asked, said):
    path = tmp_path / (name or "missing.npy")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(SettingsError, match=said):
        read_depth(path, SHAPE, **asked)


def test_masks_are_boxes_opaque_or_bright_places(tmp_path):
    box = read_mask("box:4,3,5,6", SHAPE)
    assert box.sum() == 30 and box[3:9, 4:9].all()
    shown = np.zeros((*SHAPE, 4), np.uint8)
    shown[..., 3] = np.where(box, 255, 10)
    (tmp_path / "alpha.png").write_bytes(encode_png(shown))
    (tmp_path / "grey.png").write_bytes(encode_png(np.where(box, 255, 0).astype(np.uint8)[..., None]))
    np.save(tmp_path / "m.npy", box)
    for name in ("alpha.png", "grey.png", "m.npy"):
        np.testing.assert_array_equal(read_mask(str(tmp_path / name), SHAPE), box)
    (tmp_path / "black.png").write_bytes(encode_png(np.zeros((*SHAPE, 3), np.uint8)))
    (tmp_path / "small.png").write_bytes(encode_png(np.zeros((5, 5, 3), np.uint8)))
    for words, said in (
        (str(tmp_path / "black.png"), "is empty"),
        (str(tmp_path / "small.png"), "5×5 pixels and the picture 30×20"),
        ("box:0,0,30,20", "whole picture"),
        ("box:20,0,30,20", "not inside"),
        ("box:1,2", "write box:x,y,width,height"),
        (str(tmp_path / "none.png"), "no mask file"),
    ):
        with pytest.raises(SettingsError, match=said):
            read_mask(words, SHAPE)


def test_plane_puts_ground_wall_and_cards_where_the_horizon_says():
    mask = np.zeros(SHAPE, bool)
    mask[5:15, 10:14] = True
    plate = plane_plate(PICTURE, 36.0, Room(horizon=0.25, wall=8.0), masks={"card": mask})
    assert math.degrees(math.atan(0.25 * 20 / 30)) == pytest.approx(plate.pitch_degrees)
    camera = plate.world_from_camera
    y, x = np.mgrid[0:20, 0:30] + 0.5
    rays = np.stack([(x - 15) / 30, -(y - 10) / 30, -np.ones_like(x)], axis=-1)
    world = camera[:3, 3] + plate.depth[..., None] * (rays @ camera[:3, :3].T)
    assert plate.valid.all()
    np.testing.assert_allclose(world[:3, :, 1], 8.0, rtol=1e-5)  # the wall
    np.testing.assert_allclose(world[16:, :, 2], 0.0, atol=1e-5)  # the ground
    np.testing.assert_allclose(np.ptp(world[mask][:, 1]), 0.0, atol=1e-5)
    foot = world[15, 12]
    assert foot[2] == pytest.approx(0.0, abs=1e-5) and 0.0 < world[14, 12, 1] - foot[1] < 2.0
    open_ = plane_plate(PICTURE, 36.0, Room(horizon=0.5, wall=0.0))
    assert not open_.valid[:10].any() and open_.valid[10:].all()
    with pytest.raises(SettingsError, match="shows no surface"):
        plane_plate(PICTURE, 36.0, Room(horizon=1.2, wall=0.0))


def test_plane_has_side_walls_and_a_ceiling_where_they_are_told():
    room = Room(horizon=0.4, eye_height=1.5, wall=9.0, left=2.0, right=3.0, ceiling=2.5)
    plate = plane_plate(PICTURE, 24.0, room)
    camera = plate.world_from_camera
    y, x = np.mgrid[0:20, 0:30] + 0.5
    rays = np.stack([(x - 15) / 20, -(y - 10) / 20, -np.ones_like(x)], axis=-1)
    world = camera[:3, 3] + plate.depth[..., None] * (rays @ camera[:3, :3].T)
    assert plate.valid.all() and plate.source.startswith("a ground and a wall (left, right, ceiling too)")
    low, high = np.array([-2.0, 0.0, 0.0]), np.array([3.0, 9.0, 2.5])
    apart = np.concatenate([world[..., [0, 2]] - low[[0, 2]], high - world], axis=-1)
    assert apart.min() > -1e-5, "nothing lies outside of the room"
    np.testing.assert_allclose(apart.min(axis=-1), 0.0, atol=1e-5)
    assert [(apart[..., side] < 1e-5).any() for side in range(5)] == [True] * 5, "each side of it is seen"
    only = plane_plate(PICTURE, 24.0, Room(wall=0.0, left=2.0))
    assert only.valid[:, :15].all() and not only.valid[:9, 15:].any()
    for wrong, said in (
        ({"ceiling": 1.2}, "must be higher"),
        ({"left": -1.0}, "left wall is -1.0"),
        ({"right": float("nan")}, "right wall is nan"),
        ({"wall": float("inf")}, "the wall is inf"),
    ):
        with pytest.raises(SettingsError, match=said):
            plane_plate(PICTURE, 24.0, Room(**wrong))
