# SPDX-License-Identifier: GPL-3.0-or-later
"""A thing's mask goes through a clip, and what it hides is carried from frames that show it: against a known wall."""

import numpy as np
import pytest

from das_blender_addon.footage.clean_plate import carried_background, followed_mask
from das_blender_addon.footage.clip import ClipPlate
from das_blender_addon.footage.layers import layers_of, painted_out, sky_depth_of, widened
from das_blender_addon.footage.lifting import lift
from das_blender_addon.footage.moving import influence, motion_of, positions
from das_blender_addon.footage.steadying import steadied

WIDTH, HEIGHT, COUNT, FOCAL = 61, 40, 6, 61.0
WALL, CARD, POST = 6.0, 3.0, 2.0
"""Depths of the wall, of the thing before it, and of what passes before both."""
EXACT = 2.0
"""Levels: two roundings to 8 bits, and the texture between pixels."""
GONE, STAYS = 0.3 * np.arange(COUNT), np.zeros(COUNT)


def seen(number: int, camera, card, post=None):
    """(picture, depth, mask of the card, the wall alone) of a frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y = (x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL

    def texture(far, phase):
        across, down = x * far + camera[number], y * far
        waves = [np.sin(3.0 * across + phase), np.cos(2.5 * down + across), np.sin(2.0 * (across + down))]
        return 128.0 + 100.0 * np.stack(waves, axis=-1)

    wall, depth = texture(WALL, 0.0), np.full((HEIGHT, WIDTH), WALL)
    middle = x * CARD + camera[number] - card[number]
    mask = (np.abs(middle) < 0.35) & (np.abs(y * CARD) < 0.5)
    picture = np.where(mask[..., None], 255.0 - texture(CARD, 2.0), wall)
    depth = np.where(mask, CARD, depth)
    if post is not None:
        before = np.abs(x * POST + camera[number] - post[number]) < 0.15
        picture, depth = np.where(before[..., None], 20.0, picture), np.where(before, POST, depth)
        mask = mask & ~before
    return np.rint(picture).astype(np.uint8), depth.astype(np.float32), mask, wall


def clip_of(camera, card, *, known_camera=True, every=3, post=None):
    """(the clip's plate, masks [T,H,W], the wall of the first frame)."""
    pictures, depths, masks, walls = zip(*(seen(n, camera, card, post) for n in range(COUNT)), strict=True)
    y, x = (axis.ravel() + 0.5 for axis in np.mgrid[0:HEIGHT:every, 0:WIDTH:every])
    row, column = y.astype(int), x.astype(int)
    far, own = depths[0][row, column].astype(float), masks[0][row, column]
    keep = far != POST
    x, y, far, own = x[keep], y[keep], far[keep], own[keep]
    tracks = np.zeros((COUNT, len(x), 3), np.float32)
    visible = np.zeros((COUNT, len(x)), bool)
    for number in range(COUNT):
        moved = np.where(own, card[number] - card[0], 0.0) - (camera[number] - camera[0])
        tracks[number] = np.stack([x + FOCAL * moved / far, y, np.full(len(x), np.nan)], axis=1)
        at = np.floor(tracks[number, :, 0]).astype(int)
        inside = (at >= 0) & (at < WIDTH)
        there = depths[number][y.astype(int), np.clip(at, 0, WIDTH - 1)]
        visible[number] = inside & (np.abs(there - far) < 0.1)
    cameras = np.repeat(np.eye(4)[None], COUNT, axis=0)
    cameras[:, 0, 3] = camera
    depth = np.stack(depths)
    made = ClipPlate(
        np.stack(pictures), depth, np.ones(depth.shape, bool), 36.0, 24.0, cameras if known_camera else None,
        tracks, visible, {"Card": masks[0]},
    )  # fmt: skip
    return made, np.stack(masks), walls[0]


def carried(made: ClipPlate):
    """(the card's mask in each frame, colours, where they are known) as the stage of a clip finds them."""
    plate = made.first
    lifted = lift(made, sky_depth_of(plate))
    moving = None
    if lifted is not None:
        lifted = steadied(made, lifted)
        moving = (lifted, motion_of(lifted, plate.focal_px))
    layers = layers_of(plate, 1)
    part = next(part for part in layers.parts if part.name == "Card")
    places = None
    if moving is not None:
        x, y = np.floor(lifted.at).astype(int).T
        moved = influence(part.mesh, lifted, moving[1], made.masks["Card"][y, x])
        places = lambda number: positions(part.mesh, moved, lifted, number)  # noqa: E731
    covered = followed_mask(made, made.masks["Card"], part.mesh, places, moving and moving[0])
    return covered, *carried_background(made, layers.filled, layers.behind, covered, moving)


@pytest.mark.parametrize(
    ("camera", "card", "known_camera"),
    [
        pytest.param(STAYS, GONE, True, id="the thing leaves"),
        pytest.param(0.4 * np.arange(COUNT), STAYS, True, id="the camera passes"),
        pytest.param(0.1 * np.arange(COUNT), GONE, True, id="both move"),
        pytest.param(0.4 * np.arange(COUNT), STAYS, False, id="the camera passes, and counts as still"),
    ],
)
def test_what_a_thing_hides_is_what_other_frames_show_there(camera, card, known_camera):
    made, masks, wall = clip_of(camera, card, known_camera=known_camera)
    covered, colours, known = carried(made)
    for number in range(COUNT):
        assert (covered[number] >= masks[number]).all(), f"frame {number + 1}"
        assert (covered[number] <= widened(masks[number])).all() or covered[number].all(), f"frame {number + 1}"
    hole = made.masks["Card"]
    assert known[hole].mean() > 0.8 and not known[~hole].any()
    assert np.abs(colours - wall)[known].max() <= EXACT + 4.0 and np.median(np.abs(colours - wall)[known]) <= EXACT
    filled = painted_out(made.pictures[0], hole, (colours, known))
    blind = painted_out(made.pictures[0], hole)
    off, off_blind = (np.abs(one - wall)[hole].mean() for one in (filled.astype(float), blind.astype(float)))
    assert off < 0.2 * off_blind and (filled[~hole] == made.pictures[0][~hole]).all()


def test_what_no_frame_shows_is_filled_as_in_a_picture():
    made, _, _ = clip_of(STAYS, STAYS)
    covered, colours, known = carried(made)
    assert not known.any() and (covered[1:] >= covered[:1]).all()
    hole = made.masks["Card"]
    np.testing.assert_array_equal(
        painted_out(made.pictures[0], hole, (colours, known)), painted_out(made.pictures[0], hole)
    )


def test_thing_without_tracks_is_passed_by_the_camera_alone():
    made, _, wall = clip_of(0.4 * np.arange(COUNT), STAYS)
    bare = ClipPlate(made.pictures, made.depth, made.valid, 36.0, 24.0, made.cameras, masks=made.masks)
    _, colours, known = carried(bare)
    assert known[made.masks["Card"]].mean() > 0.8 and np.median(np.abs(colours - wall)[known]) <= EXACT


def test_another_thing_that_passes_before_the_wall_is_not_taken_for_it():
    """A dark post stands where the card was when that has gone, and never leaves."""
    post = np.array([-5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    made, _, wall = clip_of(STAYS, 0.6 * np.arange(COUNT), post=post)
    _, colours, known = carried(made)
    assert known.any() and np.abs(colours - wall)[known].max() <= EXACT + 4.0
    blind = ClipPlate(
        made.pictures, made.depth[:1], made.valid[:1], 36.0, 24.0, made.cameras, made.tracks, made.visible, made.masks
    )
    _, colours, known = carried(blind)
    assert np.abs(colours - wall)[known].max() > 50.0, "the depth of the frames is what tells"


def test_frames_in_which_the_thing_is_lost_show_nothing_for_sure():
    """It leaves the picture in the third frame."""
    made, masks, wall = clip_of(STAYS, np.array([0.0, 0.6, 2.0, 2.0, 2.0, 2.0]))
    covered, colours, known = carried(made)
    assert not covered[1].all() and covered[2:].all() and not masks[2:].any()
    assert 0.3 < known[masks[0]].mean() < 1.0 and np.abs(colours - wall)[known].max() <= EXACT + 4.0
