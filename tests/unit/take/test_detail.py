# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames from key pictures: their own pixels where their surfaces are seen, at both sizes, in windows or alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SettingsError
from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.take.detail import PAINTED_SHARE, Detail, KeyPicture, for_model
from das_blender_addon.take.each_frame import Prepared
from das_blender_addon.tracking.composition import keys_around
from das_blender_addon.tracking.resampling import resize_lanczos
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.shots import pattern, wall
from tests.unit.tracking import test_relighting as relit

MODEL_SIZE = (96, 64)
"""See `model_capability`."""
ROUNDING_LEVELS = 1
"""A colour that passed through weights in float32 and one rounding to 8 bits."""
RIM_PX = 2
"""Between what a key picture shows and what it does not, pixels are made of both."""
GREY_ALPHA = 4
"""Levels: a colour that was multiplied by an alpha of a half, resampled, rounded, and divided again."""


def planned(count, size=MODEL_SIZE, keys=(), inputs=("carried_video",), **options):
    model = model_capability(num_frames=[9], inputs=inputs)
    return plan_with_keys(plan(range(1, count + 1), size, (1.0, 1.0), capabilities_of(model), **options), keys)


def detail_of(made, pictures=None, step=1.25):
    """The wall moves to the right by an eighth of the render's width in each frame."""
    pictures = pictures or [pattern(made.picture_size, seed=key) for key in made.keys]
    keys = [KeyPicture(key, picture, b"") for key, picture in zip(made.keys, pictures, strict=True)]
    return Detail(wall(made.render_size, made.frames, step=step), made, keys)


def composed(detail, indices=None, painted=None, **options):
    """{index: frame} of `Detail.compose`; each frame comes once."""
    width, height = detail.plan.model_size
    painting = np.full((height, width, 3), 128, np.uint8)
    made, lock = {}, threading.Lock()

    def take(index, frame, covered):
        with lock:
            assert index not in made and covered.shape == frame.shape[:2] and covered.dtype == bool
            made[index] = frame

    indices = range(len(detail.plan.frames)) if indices is None else indices
    detail.compose(indices, painted or (lambda _index: painting), take, **options)
    return made


def assert_close(frame, expected):
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected.astype(int)).max() <= ROUNDING_LEVELS


# ── Frames of the shot ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [MODEL_SIZE, (192, 128), (160, 80), (72, 96)])
def test_frames_show_the_key_pictures_pixels_where_its_surface_is_seen(size):
    made = planned(4, size)
    detail = detail_of(made)
    (picture,) = (one.pixels for one in detail.pictures)
    left, top, right, bottom = (int(side) for side in made.pictures.crop)
    shot = picture[top:bottom, left:right]
    frames = composed(detail)
    assert sorted(frames) == [0, 1, 2, 3]
    np.testing.assert_array_equal(frames[0], shot)
    for index, frame in frames.items():
        assert frame.shape == (size[1], size[0], 3)
        # A picture that sees more than the shot has it for longer.
        shift, margin = index * size[0] // 8, left
        seen = max(0, shift - margin) + (RIM_PX if shift > margin else 0)
        expected = np.roll(picture, shift, axis=1)[top:bottom, left:right]
        assert_close(frame[:, seen:], expected[:, seen:])


@pytest.mark.parametrize(
    ("inputs", "share"),
    [(["carried_video"], PAINTED_SHARE), (["carried_video", "carried_holes"], 1.0), ([], 1.0)],
)
def test_what_no_key_picture_shows_is_the_models_in_the_tone_of_what_is_around(inputs, share):
    made = planned(4, inputs=inputs, keep_detail=True)
    flat = np.full((64, 96, 3), 200, np.uint8)
    speckled = (100 + 60 * (np.random.default_rng(2).random((64, 96, 1)) > 0.5)).astype(np.uint8).repeat(3, axis=2)
    frame = composed(detail_of(made, [flat]), [3], lambda index: np.roll(speckled, index))[3].astype(float)
    assert (frame[:, 36 + RIM_PX :] == 200).all()
    unseen = np.s_[8:56, 4:28]
    assert frame[unseen].mean() == pytest.approx(200, abs=12)
    painted = np.roll(speckled, 3)[unseen].astype(float)
    assert np.corrcoef(frame[unseen].ravel(), painted.ravel())[0, 1] > 0.95
    assert frame[unseen].std() == pytest.approx(share * painted.std(), rel=0.1)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_share_of_a_hole_that_is_painted_can_be_chosen(share):
    detail = detail_of(planned(4, keep_detail=True), [np.full((64, 96, 3), 200, np.uint8)])
    speckled = (100 + 60 * (np.random.default_rng(2).random((64, 96, 1)) > 0.5)).astype(np.uint8).repeat(3, axis=2)
    frame = composed(detail, [3], lambda _index: speckled, painted_share=share)[3].astype(float)
    unseen = np.s_[8:56, 4:28]
    assert frame[unseen].std() == pytest.approx(share * speckled[unseen].std(), rel=0.1)


def test_carried_video_says_what_no_key_picture_shows():
    detail = detail_of(planned(4, keys=[3]), [np.full((64, 96, 3), level, np.uint8) for level in (200, 100)])
    carried = detail.carried_with_alpha([0, 1, 1])
    assert carried.shape == (3, 64, 96, 4)
    np.testing.assert_array_equal(carried[..., :3], detail.carried([0, 1, 1]))
    assert (carried[0, ..., 3] == 255).all()
    one = detail_of(planned(4), [np.full((64, 96, 3), 200, np.uint8)]).carried_with_alpha([2])[0, ..., 3]
    assert (one[:, :24] == 0).all() and (one[:, 24 + RIM_PX :] == 255).all()


def test_painting_is_enlarged_to_the_render():
    made = planned(9, (192, 128))
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None] * 2, (64, 96, 3))
    frame = composed(detail_of(made), [8], lambda _index: ramp)[8]
    assert made.picture_size == (192, 128)
    np.testing.assert_array_equal(frame, resize_lanczos(ramp, (0, 0, 96, 64), (192, 128)))


def test_frame_between_two_key_pictures_is_made_of_both():
    made = planned(5, keys=[4])
    light, dark = (np.full((64, 96, 3), level, np.uint8) for level in (200, 40))
    frames = composed(detail_of(made, [light, dark], step=0.0))
    levels = [int(frames[index][32, 48, 0]) for index in range(5)]
    assert np.abs(np.array(levels) - (200, 160, 120, 80, 40)).max() <= ROUNDING_LEVELS


def test_light_is_told_once_for_both_sizes():
    geometry = relit.shot()
    originals = {key: relit.rendered(geometry, key)[0] for key in relit.KEYS}
    whole = Prepared(geometry, originals)
    small, asked, ready = Prepared(geometry, lit_as=whole), set(), threading.Barrier(2)

    def tell(prepared):
        ready.wait()
        return prepared.light(list(relit.KEYS), lambda: asked.add(id(prepared)))

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(tell, (whole, small)))
    assert all(told) and len(asked) == 1


def test_frames_are_composed_from_the_key_pictures_around_them_only():
    made = planned(9, keys=[1, 2, 4, 6, 8])
    pictures = [pattern(made.picture_size, seed=key) for key in made.keys]
    far = composed(detail_of(made, [*pictures[:5], np.zeros_like(pictures[0])], step=0.0), [2, 3])
    near = composed(detail_of(made, pictures, step=0.0), [2, 3])
    assert all(np.array_equal(far[index], near[index]) for index in (2, 3))


@pytest.mark.parametrize(
    ("index", "around"),
    [(3, (0, 1, 2)), (4, (0, 1, 2, 3)), (7, (0, 1, 2, 3)), (8, (1, 2, 3, 4)), (16, (2, 3, 4)), (20, (3, 4))],
)
def test_two_keys_before_and_two_after_count(index, around):
    keys = (0, 4, 8, 12, 16)
    assert keys_around(keys, index) == around


def test_one_key_counts_everywhere():
    assert keys_around((0,), 0) == keys_around((0,), 99) == (0,)


def test_frame_order_and_progress_are_what_was_asked():
    told = []
    frames = composed(detail_of(planned(6, keys=[3])), [5, 1, 4], progress=lambda done, of: told.append((done, of)))
    assert sorted(frames) == [1, 4, 5] and told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("ahead", [(0, 1, 2, 3, 4, 5), (4, 2), ()])
def test_frames_that_were_composed_ahead_are_the_same(ahead):
    detail = detail_of(planned(6, (160, 80), keys=[3]))
    alone = composed(detail)
    detail.compose_ahead(ahead, lambda: False)
    told = []
    frames = composed(detail, progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 6) for done in range(1, 7)] and sorted(frames) == sorted(alone)
    assert all(np.array_equal(frames[index], alone[index]) for index in alone)


def test_no_more_is_composed_ahead_than_memory_has_room_for(monkeypatch):
    detail, asked = detail_of(planned(6)), []

    def stop():
        asked.append(1)
        return False

    monkeypatch.setattr("das_blender_addon.take.ahead_frames.AHEAD_BYTES", 0)
    detail.compose_ahead(range(6), stop)
    assert not asked
    monkeypatch.undo()
    detail.compose_ahead(range(6), stop)
    assert asked


def test_composing_ahead_stops_and_leaves_what_there_is():
    detail = detail_of(planned(6, keys=[3]))
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 5

    detail.compose_ahead(range(6), stop)
    count = len(asked)
    assert sorted(composed(detail)) == list(range(6)) and count < 20


def test_fine_detail_is_the_key_pictures_and_the_tone_the_models_in_every_frame():
    made = planned(3, (192, 128), keys=[2], keep_detail="fine")
    assert made.keeps_detail and made.fine_only and made.picture_size == (192, 128)
    pictures = [pattern((192, 128), seed=key) // 8 + 96 for key in made.keys]
    tone = (200, 90, 30)
    frames = composed(
        detail_of(made, pictures, step=0.0), painted=lambda _index: np.full((64, 96, 3), tone, np.uint8)
    )
    inner = np.s_[20:-20, 20:-20]
    for index, frame in frames.items():
        assert np.abs(frame.mean(axis=(0, 1)) - tone).max() < ROUNDING_LEVELS
        ours = pictures[0].astype(float) * (1 - index / 2) + pictures[1] * (index / 2)
        small = frame[inner].astype(float) - tone
        assert np.corrcoef(small.ravel(), ours[inner].ravel())[0, 1] > 0.9
    whole = composed(detail_of(planned(3, (192, 128), keys=[2]), pictures, step=0.0))
    assert np.abs(whole[0].mean(axis=(0, 1)) - tone).max() > 20


# ── Transparent places ──────────────────────────────────────────────────────────────────────────────────────────────


def with_hole(size):
    picture = pattern(size, channels=4)
    width, height = size
    picture[height // 4 : height // 2, width // 4 : width // 2] = 0
    hole = np.s_[height // 4 + RIM_PX : height // 2 - RIM_PX, width // 4 + RIM_PX : width // 2 - RIM_PX]
    return picture, hole


def test_transparent_place_of_a_key_picture_comes_from_another():
    made = planned(3, keys=[2])
    picture, hole = with_hole(made.picture_size)
    other = pattern(made.picture_size, seed=9)
    frames = composed(detail_of(made, [other, picture], step=0.0))
    for index in (1, 2):
        assert_close(frames[index][hole], other[hole])
    np.testing.assert_array_equal(frames[2][32:], picture[32:, :, :3])


def test_transparent_place_that_no_key_picture_shows_is_filled():
    made = planned(2)
    picture = np.full((64, 96, 4), 180, np.uint8)
    picture[..., 3] = 255
    picture[16:32, 24:48] = 0
    detail = detail_of(made, [picture], step=0.0)
    for frame in (*composed(detail).values(), *detail.carried(range(2))):
        assert np.abs(frame.astype(int) - 180).max() <= ROUNDING_LEVELS  # no black from below alpha 0


def test_one_frame_alone_is_transparent_where_no_key_picture_shows_it():
    made = planned(4, (192, 96))
    detail = detail_of(made)
    (picture,) = (one.pixels for one in detail.pictures)
    carried = detail.carry_one(2)
    assert carried.shape == (128, 192, 4) and set(np.unique(carried[..., 3])) == {0, 255}
    assert not carried[:, : 48 - RIM_PX, 3].any() and (carried[:, 48 + RIM_PX :, 3] == 255).all()
    assert_close(carried[:, 48 + RIM_PX :, :3], np.roll(picture, 48, axis=1)[:, 48 + RIM_PX :])


# ── The carried video ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [MODEL_SIZE, (384, 256), (160, 80)])
@pytest.mark.parametrize("keep_detail", [True, False])
def test_carried_video_has_the_models_size_and_shows_the_keys_as_the_model_sees_them(size, keep_detail):
    made = planned(5, size, keys=[4], keep_detail=keep_detail)
    detail = detail_of(made)
    video = detail.carried(range(5))
    assert video.shape == (5, 64, 96, 3) and video.dtype == np.uint8
    for key, picture in zip(made.keys, detail.pictures, strict=True):
        np.testing.assert_array_equal(video[key], for_model(picture.pixels, made))
    assert all(frame.std() > 5 for frame in video)


def test_carried_video_follows_the_surface():
    made = planned(3, keep_detail=False)
    detail = detail_of(made)
    video = detail.carried(range(3))
    for index in (1, 2):
        seen = np.s_[:, 12 * index + RIM_PX :]
        assert_close(video[index][seen], np.roll(video[0], 12 * index, axis=1)[seen])


def test_held_frames_are_carried_once():
    made = planned(5, keys=[2])
    told = []
    detail = detail_of(made)
    video = detail.carried(made.windows[0].held, progress=lambda done, of: told.append((done, of)))
    assert len(video) == 9 and told == [(done, 5) for done in range(1, 6)]
    assert all(np.array_equal(frame, video[4]) for frame in video[5:])
    np.testing.assert_array_equal(detail.carried([3, 0]), video[[3, 0]])


def test_transparent_place_is_carried_from_another_key_at_the_models_size():
    made = planned(3, (384, 256), keys=[2])
    picture, _ = with_hole(made.picture_size)
    other = np.full((256, 384, 3), 77, np.uint8)
    video = detail_of(made, [other, picture], step=0.0).carried(range(3))
    hole = np.s_[16 + RIM_PX : 32 - RIM_PX, 24 + RIM_PX : 48 - RIM_PX]
    assert np.abs(video[2][hole].astype(int) - 77).max() <= ROUNDING_LEVELS


# ── Their sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shadows_of_a_shot_lie_where_they_belong():
    geometry = relit.shot()
    made = planned(relit.FRAMES, (relit.WIDTH, relit.HEIGHT), relit.KEYS)
    pictures = [relit.rendered(geometry, key)[0] for key in relit.KEYS]
    detail = Detail(geometry, made, [KeyPicture(key, one, b"") for key, one in zip(relit.KEYS, pictures, strict=True)])

    ground = np.s_[relit.HEIGHT // 3 :]  # below the sky
    np.testing.assert_array_equal(detail.carry_one(2)[ground][..., :3], relit.between(geometry, pictures)[ground])


# ── Refused, stopped ────────────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_must_be_those_of_the_plan():
    made = planned(9, keys=[4])
    with pytest.raises(SettingsError, match=r"pictures at \[0\] and the plan has them at \[0, 4\]"):
        Detail(wall(MODEL_SIZE, made.frames), made, [KeyPicture(0, pattern(MODEL_SIZE), b"")])


def test_picture_of_another_size_is_refused():
    with pytest.raises(SettingsError, match="48×32 pixels"):
        composed(detail_of(planned(2), [pattern((48, 32))]))


@pytest.mark.parametrize("after", [0, 2])
def test_composing_stops_between_two_frames(after):
    detail, told = detail_of(planned(9, keys=[5])), []
    options = {"progress": lambda done, _of: told.append(done), "should_stop": lambda: len(told) >= after}
    with pytest.raises(JobCancelled):
        composed(detail, **options)
    assert after <= len(told) <= after + 1
    told.clear()
    with pytest.raises(JobCancelled):
        detail.carried(range(9), **options)
    assert after <= len(told) <= after + 1


def test_error_of_one_frame_ends_the_others_and_is_told():
    detail, asked = detail_of(planned(9)), []

    def painted(index):
        asked.append(index)
        raise OSError("the frame is gone")

    with pytest.raises(OSError, match="the frame is gone"):
        composed(detail, painted=painted)
    assert len(asked) < 9


@pytest.mark.parametrize("options", [{}, {"inputs": [], "keep_detail": True}, {"inputs": [], "keep_detail": "fine"}])
def test_frames_that_were_composed_ahead_are_the_same_bytes(options):
    def speckled(index):
        return np.random.default_rng(index).integers(0, 256, (64, 96, 3), np.uint8)

    ahead, alone = (detail_of(planned(7, (160, 80), keys=[4], **options)) for _ in range(2))
    ahead.compose_ahead([5, 2, 6], lambda: False)
    made, expected = (composed(detail, painted=speckled) for detail in (ahead, alone))
    assert all(made[index].tobytes() == expected[index].tobytes() for index in range(7))
    assert any((made[index] != composed(alone)[index]).any() for index in (2, 6))  # the model's part is in them
