# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip's plate: its folder, tracks that are led on, meshes that move, cuts, triangulated points."""

import json

import numpy as np
import pytest

from das_blender_addon.errors import SceneError, SettingsError, StorageError
from das_blender_addon.footage.alignment import Alignment, read_alignment
from das_blender_addon.footage.clip import SOLVER, ClipPlate, is_clip, load_clip, save_clip
from das_blender_addon.footage.cuts import check_no_cut, find_cuts
from das_blender_addon.footage.depth_files import read_depth
from das_blender_addon.footage.epipolar import moving_points
from das_blender_addon.footage.lifting import lift
from das_blender_addon.footage.masks import read_mask
from das_blender_addon.footage.mesh import mesh_of_depth
from das_blender_addon.footage.moving import influence, motion_of, positions, trusted
from das_blender_addon.footage.pc2 import read_pc2, write_pc2
from das_blender_addon.footage.plate import focal_px
from das_blender_addon.footage.steadying import steadied
from das_blender_addon.footage.track_files import read_tracks
from das_blender_addon.footage.triangulation import check_points, triangulated

COUNT, HEIGHT, WIDTH, LENS = 5, 24, 32, 30.0
PIXELS = np.random.default_rng(1).integers(0, 255, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
EXACT = 1e-6


def cameras() -> np.ndarray:
    made = np.repeat(np.eye(4)[None], COUNT, axis=0)
    made[:, 0, 3] = np.linspace(0.0, 0.8, COUNT)
    return made


def grid_tracks(every: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Points 4 units away that go right by 0.1 units a frame."""
    y, x = np.mgrid[0:HEIGHT:every, 0:WIDTH:every] + 0.5
    first = np.stack([x.ravel(), y.ravel(), np.full(x.size, 4.0)], axis=1)
    tracks = np.repeat(first[None], COUNT, axis=0)
    tracks[..., 0] += 0.1 * focal_px(LENS, (WIDTH, HEIGHT)) / 4.0 * np.arange(COUNT)[:, None]
    return tracks.astype(np.float32), np.ones(tracks.shape[:2], bool)


def clip(**other) -> ClipPlate:
    tracks, visible = grid_tracks()
    known = {"tracks": tracks, "visible": visible, **other}
    depth = known.pop("depth", np.full((COUNT, HEIGHT, WIDTH), 4.0, np.float32))
    return ClipPlate(PIXELS, depth, depth > 0.0, LENS, **known)


@pytest.mark.parametrize("all_known", [True, False])
def test_plate_of_a_clip_comes_back_from_its_folder(tmp_path, all_known):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 4:8] = True
    one = np.full((1, HEIGHT, WIDTH), 4.0, np.float32)
    made = clip(cameras=cameras(), masks={"кот": mask}, fps=12.5, pitch_degrees=3.0, source="a test")
    made = made if all_known else ClipPlate(PIXELS, one, one > 0.0, LENS)
    assert not is_clip(tmp_path)
    save_clip(made, tmp_path / "p")
    save_clip(made, tmp_path / "p")
    again = load_clip(tmp_path / "p")
    for name in ("pictures", "depth", "valid", "cameras", "tracks", "visible"):
        before, after = getattr(made, name), getattr(again, name)
        assert (before is None) == (after is None) == (not all_known and name in ("cameras", "tracks", "visible"))
        if before is not None:
            np.testing.assert_array_equal(after, before)
    assert set(again.masks) == set(made.masks) and (again.fps, again.pitch_degrees) == (made.fps, made.pitch_degrees)
    np.testing.assert_array_equal(again.first.depth, made.depth[0])
    (tmp_path / "p" / "frames" / "0003.png").unlink()
    if all_known:
        with pytest.raises(SettingsError, match="4 pictures"):
            load_clip(tmp_path / "p")


def test_folder_of_another_program_needs_depth_and_lens_only(tmp_path):
    save_clip(clip(), tmp_path)
    np.savez(tmp_path / "clip.npz", depth=np.where(np.arange(WIDTH) < 5, np.inf, 2.0) * np.ones((COUNT, HEIGHT, 1)))
    (tmp_path / "clip.json").write_text(json.dumps({"format": "das-clip", "version": 1, "lens_mm": 40}))
    foreign = load_clip(tmp_path)
    assert foreign.tracks is None and not foreign.valid[..., :5].any() and foreign.valid[..., 5:].all()
    (tmp_path / "clip.json").write_text(json.dumps({"format": "das-clip", "version": 2, "lens_mm": 40}))
    with pytest.raises(StorageError, match="version 1"):
        load_clip(tmp_path)


def test_clips_whose_parts_do_not_fit_are_refused():
    tracks, visible = grid_tracks()
    scaled = cameras()
    scaled[2, :3, :3] *= 1.1
    for other, said in (
        ({"depth": np.ones((2, HEIGHT, WIDTH), np.float32)}, "depth is"),
        ({"depth": np.full((COUNT, HEIGHT, WIDTH), np.inf, np.float32)}, "no distance"),
        ({"cameras": cameras()[:3]}, "cameras are"),
        ({"cameras": scaled}, "frame 3 is no rotation"),
        ({"tracks": tracks[:, :, :2]}, "tracks are"),
        ({"visible": visible[:, :3]}, "need visible"),
        ({"visible": np.zeros_like(visible)}, "first frame"),
        ({"fps": 0.0}, "frames a second"),
    ):
        with pytest.raises(SettingsError, match=said):
            clip(**other)


def test_hidden_points_go_on_as_those_beside_them_and_end_where_they_come_back():
    tracks, visible = grid_tracks()
    lost, back = 40, 41
    tracks[2:, lost], visible[2:, lost] = np.nan, False
    tracks[2:4, back], visible[2:4, back] = np.nan, False
    lifted = lift(clip(tracks=tracks, visible=visible), 400.0)
    true = lift(clip(), 400.0).places
    np.testing.assert_allclose(lifted.places[:, [lost, back]], true[:, [lost, back]], atol=EXACT)
    tracks[4, back, 0] += 1.0
    bent = lift(clip(tracks=tracks, visible=visible), 400.0).places[:, back, 0] - true[:, back, 0]
    assert bent[0] == bent[1] == 0.0 < bent[2] < bent[3] < bent[4]


def test_depth_of_tracks_that_have_none_is_that_of_their_frames_or_of_points_that_stand_still():
    tracks, visible = grid_tracks()
    flat = tracks.copy()
    flat[..., 2] = np.nan
    depth = (
        np.full((COUNT, HEIGHT, WIDTH), 4.0, np.float32) * np.linspace(1.0, 2.0, COUNT, dtype=np.float32)[:, None, None]
    )
    inside = tracks[..., 0] < WIDTH
    lifted = lift(clip(tracks=flat, visible=visible & inside, depth=depth), 400.0)
    for number in range(COUNT):
        np.testing.assert_allclose(lifted.places[number, inside[number], 2], depth[number, 0, 0], rtol=EXACT)
    only_first = lift(clip(tracks=flat, visible=visible & inside, depth=depth[:1]), 400.0)
    np.testing.assert_allclose(only_first.places[..., 2], 4.0, rtol=EXACT)


def test_clip_in_which_nothing_of_the_first_picture_stays_is_refused():
    tracks, visible = grid_tracks()
    visible[3:] = False
    with pytest.raises(SettingsError, match="frame 4 .*--frames 3"):
        lift(clip(tracks=tracks, visible=visible), 400.0)


def test_points_that_stand_still_before_a_moving_camera_do_so_exactly():
    tracks, visible = grid_tracks()
    still = tracks.copy()
    still[..., 0] = tracks[0, :, 0] - cameras()[:, 0, 3, None] * focal_px(LENS, (WIDTH, HEIGHT)) / 4.0
    still[1:, :, :2] += np.random.default_rng(0).normal(0.0, 0.02, still[1:, :, :2].shape)
    still[2:, 7, 1] += 3.0
    made = clip(tracks=still, visible=visible, cameras=cameras())
    places = steadied(made, lift(made, 400.0)).places
    moved = np.abs(places - places[:1]).max(axis=(0, 2))
    assert (np.delete(moved, 7) == 0.0).all() and moved[7] > 0.1


def test_point_at_a_wrong_distance_that_was_found_with_the_camera_does_not_move_for_that():
    """The wall stands 4 units away and the depth says 2.5; point 7 goes down, points 20 and 21 go with the wall and are
    masked."""
    tracks, visible = grid_tracks()
    still = tracks.copy()
    still[..., 0] = tracks[0, :, 0] - cameras()[:, 0, 3, None] * focal_px(LENS, (WIDTH, HEIGHT)) / 4.0
    still[..., 2] = np.nan
    still[:, 7, 1] += np.arange(COUNT)
    wrong = np.full((1, HEIGHT, WIDTH), 2.5, np.float32)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    x, y = np.floor(tracks[0, 20:22, :2]).astype(int).T
    mask[y, x] = True
    known = {"tracks": still, "visible": visible, "cameras": cameras(), "depth": wrong, "masks": {"кот": mask}}
    for source, moving in ((SOLVER, {7, 20, 21}), ("a depth file", set(range(len(tracks[0]))))):
        made = clip(**known, source=source)
        places = steadied(made, lift(made, 400.0)).places
        moved = np.abs(places - places[:1]).max(axis=(0, 2)) > 0.05
        assert set(np.flatnonzero(moved)) == moving, source
    short = visible.copy()
    short[2:, 7] = False
    made = clip(**{**known, "visible": short}, source=SOLVER)
    places = steadied(made, lift(made, 400.0)).places
    assert (places[:, 7] == places[0, 7]).all(), "seen too shortly to speak against it"


def test_mesh_goes_as_its_points_do_and_two_things_that_touch_do_not_drag_each_other():
    """Left half stands still, right half goes down; both 4 units away."""
    tracks, visible = grid_tracks(1)
    right = tracks[0, :, 0] > WIDTH / 2
    tracks[..., 0] = tracks[0, :, 0]
    tracks[:, right, 1] += 2.0 * np.arange(COUNT)[:, None]
    made = clip(tracks=tracks, visible=visible)
    lifted = lift(made, 400.0)
    motion = motion_of(lifted, made.first.focal_px)
    field = (motion.reshape(HEIGHT, WIDTH, -1)) / 1.5
    whole, cut = (mesh_of_depth(made.depth[0], made.valid[0], made.first.focal_px, 1, moves) for moves in (None, field))
    assert len(cut.vertices) == len(whole.vertices) + HEIGHT + 1
    moved = positions(cut, influence(cut, lifted, motion, np.ones(right.size, bool)), lifted, 4) - cut.vertices
    homes = cut.pixels[cut.quads].mean(axis=1)[:, 0] > WIDTH / 2
    down = 8.0 * 4.0 / made.first.focal_px
    np.testing.assert_allclose(moved[cut.quads[~homes].ravel()], 0.0, atol=1e-5)
    np.testing.assert_allclose(moved[cut.quads[homes].ravel(), 1], down, rtol=1e-4)


def test_point_that_moves_as_none_beside_it_does_is_not_believed():
    tracks, visible = grid_tracks()
    right = tracks[0, :, 0] > WIDTH / 2
    tracks[:, ~right, 0] = tracks[0, ~right, 0]
    wrong = tracks.copy()
    wrong[2:, 20, 1] += 9.0
    made = clip(tracks=wrong, visible=visible)
    kept = trusted(lift(made, 400.0), made.first.focal_px)
    np.testing.assert_array_equal(kept.at, np.delete(tracks[0, :, :2], 20, axis=0))
    few = clip(tracks=wrong[:, 18:22], visible=visible[:, 18:22])
    assert len(trusted(lift(few, 400.0), made.first.focal_px).at) == 4, "too few to tell"


def test_coarse_points_carry_a_turn_evenly():
    """A surface that turns about the view axis: motion changes linearly, and so do the vertices between the points."""
    tracks, visible = grid_tracks(4)
    middle = np.array([WIDTH, HEIGHT]) / 2.0
    for number in range(COUNT):
        angle = 0.05 * number
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        tracks[number, :, :2] = (tracks[0, :, :2] - middle) @ turn.T + middle
    made = clip(tracks=tracks, visible=visible)
    lifted = lift(made, 400.0)
    mesh = mesh_of_depth(made.depth[0], made.valid[0], made.first.focal_px)
    chosen = np.ones(tracks.shape[1], bool)
    moved = positions(mesh, influence(mesh, lifted, motion_of(lifted, made.first.focal_px), chosen), lifted, 4)
    wanted = (mesh.pixels - middle) @ turn.T + middle
    shown = made.first.focal_px * moved[:, :2] / moved[:, 2:] + middle
    inner = (np.abs(mesh.pixels - middle) < middle - 4.0).all(axis=1)
    assert np.linalg.norm(shown - wanted, axis=1)[inner].max() < 0.2


def test_positions_come_back_from_a_pc2_file(tmp_path):
    made = np.random.default_rng(0).normal(size=(3, 7, 3)).astype(np.float32)
    write_pc2(tmp_path / "a" / "p.pc2", iter(made), 3, 7)
    np.testing.assert_array_equal(read_pc2(tmp_path / "a" / "p.pc2"), made)
    (tmp_path / "no.pc2").write_bytes(b"x" * 40)
    with pytest.raises(StorageError, match="cannot be read"):
        read_pc2(tmp_path / "no.pc2")


def smooth_clip(count: int, seed: int) -> np.ndarray:
    """A picture that moves by three pixels a frame."""
    big = np.random.default_rng(seed).integers(0, 255, (9, 40, 3)).astype(np.float64)
    big = np.repeat(np.repeat(big, 8, axis=0), 8, axis=1) * (0.4 + 0.6 * seed)
    return np.stack([big[:64, 3 * n : 3 * n + 96] for n in range(count)]).clip(0, 255).astype(np.uint8)


def test_cuts_are_found_and_named_and_fast_motion_or_a_flash_is_none():
    one, other = smooth_clip(12, 0), smooth_clip(9, 1)
    assert find_cuts(one) == [] and find_cuts(one[::3]) == []
    assert find_cuts(np.concatenate([one, other])) == [13]
    assert find_cuts(np.concatenate([one[:2], other[:2]])) == [3]
    assert find_cuts(np.concatenate([one, other, one])) == [13, 22]
    assert find_cuts(np.repeat(one, 3, axis=0)) == [], "pictures that are repeated make no cut of the next one"
    assert find_cuts(np.repeat(np.concatenate([one, other]), 3, axis=0)) == [37]
    brighter = (one * np.linspace(1.0, 0.3, 12)[:, None, None, None]).astype(np.uint8)
    assert find_cuts(brighter) == []
    with pytest.raises(SettingsError, match=r"frames 16 and 17, .*--frames 12.*--from 17"):
        check_no_cut(np.concatenate([one, other]), "x.mp4", first=5)
    check_no_cut(one, "x.mp4")


def test_tracks_of_a_file_are_those_of_the_shots_frames(tmp_path):
    tracks, visible = grid_tracks()
    visible[3, 5] = False
    np.savez(tmp_path / "t.npz", tracks=tracks[..., :2], visible=visible)
    flat, seen = read_tracks(tmp_path / "t.npz", 1, COUNT)
    assert np.isnan(flat[..., 2]).all() and np.isnan(flat[3, 5]).all() and not seen[3, 5]
    part, _ = read_tracks(tmp_path / "t.npz", 3, 3)
    np.testing.assert_array_equal(part[0, :, :2], tracks[2, :, :2])
    np.savez(tmp_path / "bad.npz", tracks=tracks[0], visible=visible)
    np.savez(tmp_path / "other.npz", points=tracks)
    for name, first, said in (
        ("t.npz", 4, "end before frame 6"), ("bad.npz", 1, "they are"), ("none.npz", 1, "no file"),
        ("other.npz", 1, "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=said):
            read_tracks(tmp_path / name, first, 3)


def test_depth_of_all_frames_has_one_scale(tmp_path):
    depth = np.linspace(1.0, 4.0, COUNT * HEIGHT * WIDTH).reshape(COUNT, HEIGHT, WIDTH)
    np.savez(tmp_path / "d.npz", depth=depth, kind="metric", mask=depth < 3.9)
    read, valid = read_depth(tmp_path / "d.npz", (HEIGHT, WIDTH), frames=(1, COUNT))
    np.testing.assert_allclose(read[valid], depth[depth < 3.9], rtol=EXACT)
    part, _ = read_depth(tmp_path / "d.npz", (HEIGHT, WIDTH), frames=(2, 3))
    np.testing.assert_allclose(part[0], depth[1], rtol=EXACT)
    np.save(tmp_path / "one.npy", 1.0 / depth[0])
    one, _ = read_depth(tmp_path / "one.npy", (HEIGHT, WIDTH), kind="inverse", scale=1.0, frames=(1, COUNT))
    np.testing.assert_allclose(one[0], depth[0], rtol=EXACT)
    with pytest.raises(SettingsError, match="5 frames"):
        read_depth(tmp_path / "d.npz", (HEIGHT, WIDTH), frames=(4, 4))
    with pytest.raises(SettingsError, match="pixels"):
        read_depth(tmp_path / "d.npz", (HEIGHT, 9), frames=(1, COUNT))


def test_points_are_where_their_rays_meet_and_those_that_move_are_none():
    random = np.random.default_rng(2)
    size = (WIDTH * 10, HEIGHT * 10)
    places = np.stack([random.uniform(-1, 1, 60), random.uniform(-0.6, 0.6, 60), random.uniform(3, 6, 60)], axis=1)
    path = cameras()
    path[:, 2, 3] = np.linspace(0.0, -0.3, COUNT)  # forward, in Blender's axes
    moved = np.repeat(places[None], COUNT, axis=0)
    moved[:, :5, 1] += np.linspace(0.0, 0.5, COUNT)[:, None]
    shown = moved - path[:, None, :3, 3] * [1.0, -1.0, -1.0]
    tracks = focal_px(LENS, size) * shown[..., :2] / shown[..., 2:] + np.array(size) / 2.0
    tracks += random.normal(0.0, 0.05, tracks.shape)
    points = triangulated(tracks, np.ones(tracks.shape[:2], bool), path, LENS, size)
    assert points.good[5:].all() and not points.good[:5].any()
    assert np.median(np.abs(points.places[5:, 2] / places[5:, 2] - 1.0)) < 0.01
    check_points(points, tracks[0], size[::-1])
    still = triangulated(
        tracks[:1].repeat(COUNT, 0), np.ones(tracks.shape[:2], bool), np.stack([np.eye(4)] * COUNT), LENS, size
    )
    with pytest.raises(SceneError, match="Only 0 points"):
        check_points(still, tracks[0], size[::-1])


def test_alignment_says_where_what_is_seen_must_be():
    plate = clip().first
    aligned = read_alignment("3,-2,1.5,90")
    assert aligned == Alignment(3.0, -2.0, 1.5, 90.0) and read_alignment("").is_none
    place = np.array([0.2, -0.1, 4.0])
    focal, middle = plate.focal_px, np.array(plate.size) / 2.0

    def shown(at):
        return focal * at[:2] / at[2] + middle

    moved = aligned.matrix(plate) @ place
    np.testing.assert_allclose(shown(moved), aligned.pixels(shown(place)[None], plate.size)[0])
    assert moved[2] == place[2]
    for words in ("1", "1,2,0", "a,b", "1,2,3,4,5", "1,2,nan"):
        with pytest.raises(SettingsError, match="alignment"):
            read_alignment(words)


def test_points_that_move_by_themselves_are_told_from_those_that_the_camera_moves():
    random = np.random.default_rng(4)
    size, count = (320, 200), 9
    places = np.stack([random.uniform(-2, 2, 120), random.uniform(-1.2, 1.2, 120), random.uniform(3, 7, 120)], axis=1)
    moved = np.repeat(places[None], count, axis=0)
    moved[:, :30] += np.linspace(0.0, 1.0, count)[:, None, None] * np.array([0.1, 0.5, 0.2])
    path = np.linspace(0.0, 0.9, count)[:, None, None] * np.array([1.0, 0.1, 0.5])
    shown = moved - path
    tracks = focal_px(LENS, size) * shown[..., :2] / shown[..., 2:] + np.array(size) / 2.0
    tracks += random.normal(0.0, 0.05, tracks.shape)
    visible = np.ones(tracks.shape[:2], bool)
    visible[5:, 40:60] = False
    found = moving_points(tracks, visible, size)
    assert found[:30].mean() > 0.9 and found[30:].mean() < 0.05
    assert not moving_points(tracks[:, :10], visible[:, :10], size).any(), "too few to tell"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["tracks", "depth", "mask"])
def test_damaged_arrays_are_refused_in_a_sentence(tmp_path, kind, share):
    file = tmp_path / ("it.npy" if kind == "mask" else "it.npz")
    if kind == "mask":
        np.save(file, np.zeros((HEIGHT, WIDTH), bool))
    else:
        tracks, visible = grid_tracks()
        np.savez_compressed(file, tracks=tracks[..., :2], visible=visible, depth=np.ones((HEIGHT, WIDTH), np.float32))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SettingsError, match="cannot be read"):
        if kind == "tracks":
            read_tracks(file, 1, COUNT)
        elif kind == "depth":
            read_depth(file, (HEIGHT, WIDTH))
        else:
            read_mask(str(file), (HEIGHT, WIDTH))


def test_middle_of_an_archive_that_is_damaged_is_refused(tmp_path):
    file = tmp_path / "it.npz"
    np.savez_compressed(file, depth=np.random.default_rng(2).random((HEIGHT, WIDTH)).astype(np.float32))
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    file.write_bytes(data)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_depth(file, (HEIGHT, WIDTH))
