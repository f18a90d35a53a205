# SPDX-License-Identifier: GPL-3.0-or-later
"""A take of which the model makes only every nth frame; those between are composed from their neighbours."""

import json
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.client.take import Progress
from das_blender_addon.errors import JobCancelled, SettingsError
from das_blender_addon.protocol.messages import Cancel
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.take.cache import TakeSettings, find_take
from das_blender_addon.take.detail import Detail, KeyPicture
from das_blender_addon.take.run import run_part, run_take
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.peer import HEIGHT, NUM_FRAMES, WIDTH, Peer, ask_once, frame
from tests.support.running import Running, wait_for
from tests.support.shots import DEPTH, pattern, request_of_shot, wall, wall_shot
from tests.unit.take.test_take_in_windows import levels

SETTINGS = TakeSettings(prompt="a vase", seed=7)
LEVELS = [0, 3, 7, 10, 13, 17, 20]
"""Of 7 frames of which the model makes the 1st, 4th and 7th: the peer paints 0, 10 and 20, and a third of the way is a
third of each."""
LONG_LEVELS = [0, 3, 7, *[10] * 13, 13, 17, 20]
"""Of 19 frames: windows of the frames 0, 3, 6, of 6, 9, 12 and of 12, 15, 18; where two meet both count half."""
RESAMPLED_LEVELS = 4
"""Of stripes of 100 levels that were resampled three times; with one look-up at the model's size it is 11."""


def shot(num_frames=7, every=3, keys=(), size=(WIDTH, HEIGHT), step=0.0, **options):
    """A shot of the peer's model, which makes three frames in a window, before a wall that stands still."""
    values = {"num_frames": [NUM_FRAMES], "sizes": [[WIDTH, HEIGHT]], "inputs": options.pop("inputs", [])}
    capabilities = capabilities_of(model_capability(**values))
    made = plan(range(11, 11 + num_frames), size, (1.0, 1.0), capabilities, model_frames_every=every, **options)
    return wall_shot(plan_with_keys(made, keys), step=step)


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch):
    ask_once(monkeypatch)


@pytest.fixture
def request_of(tmp_path):
    """`take_request` of a shot with pictures of its own."""

    return lambda made=None: request_of_shot(made or shot(), tmp_path, SETTINGS)


@pytest.fixture
def peer():
    with Peer() as peer:
        yield peer


# ── Frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_take_has_every_frame_and_the_model_made_every_third(request_of, peer):
    asked = request_of()
    take = run_take(asked, peer.address)
    (job,) = peer.jobs
    assert (peer.jobs[job].spec.num_frames, peer.jobs[job].spec.kept_frames) == (3, 3)
    np.testing.assert_array_equal(peer.array_of(job, "tracking_video"), asked.shot.videos[0].video)
    assert asked.shot.videos[0].frames == (11, 14, 17)
    assert take.frame_numbers == tuple(range(11, 18)) and levels(take.frames) == levels(take.model_frames) == LEVELS
    assert len(take.tracking_frames) == 7 and find_take(asked) == replace(take, cached=True)
    said = json.loads((take.folder / "take.json").read_text())
    assert said["report"]["model_frames_every"] == 3 and said["report"]["model_frame_numbers"] == [11, 14, 17]
    assert said["windows"][0]["frames"] == [11, 17] and said["windows"][0]["part"] == "windows/01"
    files = sorted(path.relative_to(take.folder).as_posix() for path in take.folder.rglob("*.png"))
    assert sorted(said["files"]) == files


@pytest.mark.parametrize("shift", [0.5, 1.3, 12.0])
def test_frames_between_follow_the_surface_and_are_as_sharp_as_the_models(shift):
    """The wall moves by ``shift`` pixels a frame; its stripes are four pixels wide."""
    capabilities = capabilities_of(model_capability(num_frames=[9]))
    made = plan(range(1, 8), (96, 64), (1.0, 1.0), capabilities, model_frames_every=3)
    geometry = wall((96, 64), made.frames, step=shift * DEPTH / 96)
    detail, found, asked = Detail(geometry, made, [KeyPicture(0, pattern((96, 64)), b"")]), {}, []

    def seen(index):
        x, y = np.arange(96)[None, :, None] + 0.5 - shift * index, np.arange(64)[:, None, None] + 0.5
        return np.rint(128 + 50 * np.sin(x * np.pi / 2) + 50 * np.cos(y / 9 + [0, 1, 2])).astype(np.uint8)

    def made_by_model(index):
        asked.append(index)
        return seen(index)

    detail.between(made_by_model, found.__setitem__)
    assert sorted(found) == [1, 2, 4, 5] and set(asked) == {0, 3, 6}
    for index, picture in found.items():
        difference = picture.astype(float) - seen(index)
        assert np.abs(difference[4:-4, 4:-4]).max() <= RESAMPLED_LEVELS


def test_frames_of_the_model_pass_unchanged_and_its_windows_into_one_another(request_of, peer):
    asked = request_of(shot(num_frames=19))
    take = run_take(asked, peer.address)
    assert [asked.plan.made_in(window) for window in asked.plan.windows] == [(0, 3, 6), (6, 9, 12), (12, 15, 18)]
    assert levels(take.frames) == LONG_LEVELS
    second = list(peer.jobs)[1]
    assert peer.input_of(second, "first_frame") == encode_png(frame(2))
    said = json.loads((take.folder / "take.json").read_text())
    assert [one["frames"] for one in said["windows"]] == [[11, 17], [17, 23], [23, 29]]


def test_window_begins_at_a_key_picture_that_is_on_no_third_frame(request_of, peer):
    asked = request_of(shot(num_frames=12, keys=[5]))
    assert asked.plan.made == (0, 3, 5, 8, 11)
    assert [asked.plan.made_in(window) for window in asked.plan.windows] == [(0, 3, 5), (5, 8, 11)]
    run_take(asked, peer.address)
    assert peer.input_of(list(peer.jobs)[1], "first_frame") == asked.pictures[1].png


def test_frames_keep_the_key_pictures_detail_at_the_renders_size(request_of, peer):
    asked = request_of(shot(num_frames=9, keys=[4], size=(2 * WIDTH, 2 * HEIGHT), keep_detail=True))
    take = run_take(asked, peer.address)
    for key, picture in zip(asked.plan.keys, asked.pictures, strict=True):
        np.testing.assert_array_equal(decode_png(take.frames[key].read_bytes()), picture.pixels)
    assert decode_png(take.frames[2].read_bytes()).std() > 5
    assert levels(take.model_frames)[:4] == [0, 3, 7, 10]


def test_model_that_is_given_what_key_pictures_show_is_given_its_own_frames_of_that(request_of, peer):
    asked = request_of(shot(inputs=["carried_video"], keep_detail=False, step=1.25))
    run_take(asked, peer.address)
    (job,) = peer.jobs
    np.testing.assert_array_equal(peer.array_of(job, "carried_video"), asked.detail.carried([0, 3, 6]))


def test_last_frame_is_made_whatever_the_step(request_of, peer):
    asked = request_of(shot(num_frames=6))
    take = run_take(asked, peer.address)
    assert asked.plan.made == (0, 3, 5) and levels(take.frames) == [0, 3, 7, 10, 15, 20]


# ── Keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_key_of_the_take_follows_which_frames_the_model_makes(request_of):
    keys = [request_of(shot(every=every)).key for every in (1, 2, 3)]
    assert len(set(keys)) == 3
    assert request_of(shot(every=0)).key == keys[0], "a model without a frame rate makes all of them"


def test_key_follows_the_geometry_between_the_models_frames(request_of):
    made = shot()
    assert request_of(replace(made, digest="of other geometry")).key != request_of(made).key


def test_longer_take_renders_only_the_windows_that_are_new(request_of, peer):
    run_take(request_of(shot(num_frames=13)), peer.address)
    before = set(peer.jobs)
    longer = run_take(request_of(shot(num_frames=19)), peer.address)
    assert len(longer.frames) == 19 and levels(longer.frames) == LONG_LEVELS
    assert len(set(peer.jobs) - before) == 0, "in front of a wall that stands still all further windows are alike"


def test_parts_are_made_and_found_by_the_whole(request_of, peer):
    asked = request_of(shot(num_frames=19, keys=[6, 12]))
    numbers = [number for part in (1, 2, 3) for number in run_part(asked, peer.address, (part, 3))]
    made = set(peer.jobs)
    assert numbers == [0, 1, 2] and levels(run_take(asked, peer.address).frames) == LONG_LEVELS
    assert set(peer.jobs) == made


def test_part_that_begins_with_a_frame_of_another_is_refused_by_its_frame(request_of, peer):
    with pytest.raises(SettingsError, match="part 2/3 begins with a frame of the part before .* picture at frame 17"):
        run_part(request_of(shot(num_frames=19)), peer.address, (2, 3))


# ── Progress, cancel ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keep_detail", [False, True])
def test_progress_counts_what_is_composed_and_ends_at_its_end(request_of, peer, keep_detail):
    seen = []
    run_take(request_of(shot(keep_detail=keep_detail)), peer.address, on_event=seen.append)
    progress = [event for event in seen if isinstance(event, Progress)]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    composing = [(event.step, event.of) for event in progress if event.stage == "composing"]
    total = 4 + 7 * keep_detail
    assert composing == [(done, total) for done in range(1, total + 1)]


def test_take_that_is_cancelled_before_its_jobs_are_over_withdraws_them(request_of, peer):
    peer.final = None
    asked = request_of(shot(num_frames=19, keys=[6, 12]))
    running = Running(asked, peer.address)
    wait_for(lambda: len(peer.jobs) == 3)
    running.stop.set()
    assert isinstance(running.wait(), JobCancelled)
    assert {message.job for message in peer.requests if isinstance(message, Cancel)} == set(peer.jobs)


def test_take_that_is_cancelled_between_two_frames_goes_on_with_what_the_model_made(request_of, peer):
    asked, told = request_of(shot(num_frames=19)), []
    stop = {"on_event": told.append, "should_stop": lambda: any(one.stage == "composing" for one in told
                                                               if isinstance(one, Progress))}  # fmt: skip
    with pytest.raises(JobCancelled):
        run_take(asked, peer.address, **stop)
    assert find_take(asked) is None
    made = set(peer.jobs)
    assert levels(run_take(asked, peer.address).frames) == LONG_LEVELS and set(peer.jobs) == made
