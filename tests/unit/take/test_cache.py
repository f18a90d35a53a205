# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes: keyed by everything that decides their pixels, whole or absent, never made twice.

One file, though long: one key and one folder, seen from every side, with one peer.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import (
    FirstFrameError,
    JobCancelled,
    JobError,
    OutOfMemory,
    SettingsError,
    StorageError,
)
from das_blender_addon.protocol.messages import Attach, Cancel, Fetch, Submit
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.plan import plan
from das_blender_addon.take.cache import TakeSettings, find_take, job_key, load_take, take_request
from das_blender_addon.take.run import run_take
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.peer import HEIGHT, NUM_FRAMES, WIDTH, Peer, ask_once, frame
from tests.support.running import Running, wait_for
from tests.support.shots import wall_shot

SETTINGS = TakeSettings(prompt="a vase", seed=7)


def shot(num_frames=2, render_size=(WIDTH, HEIGHT), keep_detail=None, **model):
    """A shot of the peer's model, shorter than its window, whose frames are the model's own."""
    values = {"num_frames": [NUM_FRAMES], "sizes": [[WIDTH, HEIGHT]], "inputs": [], **model}
    capability = model_capability(**values)
    frames = range(11, 11 + num_frames)
    made = plan(frames, render_size, (1.0, 1.0), capabilities_of(capability), keep_detail=keep_detail)
    return replace(wall_shot(made), timings={"export": 0.5})


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch):
    ask_once(monkeypatch)


@pytest.fixture
def first_frame(tmp_path):
    path = tmp_path / "first_frame.png"
    path.write_bytes(encode_png(np.full((HEIGHT, WIDTH, 3), 50, np.uint8)))
    return path


@pytest.fixture
def request_of(tmp_path, first_frame):
    """`take_request` with the test's first frame and folder."""

    def make(made=None, settings=SETTINGS, path=first_frame, keys=()):
        return take_request(made or shot(), path, settings, tmp_path / "shot", keys=keys)

    return make


# ── What is asked for ───────────────────────────────────────────────────────────────────────────────────────────────


def test_request_holds_the_last_frame_up_to_the_window(request_of):
    made = shot(inputs=["carried_video"], keep_detail=False)
    job = request_of(made).job
    assert job.tracking_video.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(job.tracking_video[:2], made.tracking.video)
    np.testing.assert_array_equal(job.tracking_video[2], made.tracking.video[1])
    assert job.carried_video.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(job.carried_video[2], job.carried_video[1])
    assert (job.spec.num_frames, job.spec.kept_frames) == (NUM_FRAMES, 2)
    assert job.spec.options == {}


def test_request_fills_in_the_models_defaults(request_of):
    spec = request_of().job.spec
    assert (spec.num_inference_steps, spec.guidance_scale, spec.tracking_range) == (2, 1.0, "signed")
    spec = request_of(settings=TakeSettings(num_inference_steps=5, guidance_scale=3.5, tracking_range="unit")).job.spec
    assert (spec.num_inference_steps, spec.guidance_scale, spec.tracking_range) == (5, 3.5, "unit")


def test_request_sends_no_carried_video_to_a_model_that_reads_none(request_of):
    assert request_of().job.carried_video is None


def test_request_tells_an_older_server_not_to_compose(request_of):
    job = request_of(shot(inputs=["first_frame_xy"])).job
    assert job.carried_video is None and job.spec.options == {"compose": False}


def test_request_refuses_what_the_model_does_not_take(request_of):
    with pytest.raises(SettingsError, match="does not take 3 steps; it takes 1, 2") as caught:
        request_of(shot(exact_steps=[1, 2]), TakeSettings(num_inference_steps=3))
    assert caught.value.field == "num_inference_steps"
    with pytest.raises(SettingsError, match="'wide'; use signed or unit"):
        request_of(settings=TakeSettings(tracking_range="wide"))


def test_request_refuses_a_first_frame_of_another_size(request_of, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(FirstFrameError, match=f"4×4 pixels and the model needs {WIDTH}×{HEIGHT}"):
        request_of(path=other)


def test_key_changes_with_everything_that_decides_the_pixels(request_of, tmp_path):
    keys = [request_of().key]
    for settings in (
        replace(SETTINGS, seed=8),
        replace(SETTINGS, prompt="a jug"),
        replace(SETTINGS, negative_prompt="blur"),
        replace(SETTINGS, num_inference_steps=1),
        replace(SETTINGS, guidance_scale=2.0),
        replace(SETTINGS, tracking_range="unit"),
    ):
        keys.append(request_of(settings=settings).key)
    other = shot()
    other.tracking.video[1, 2, 3, 0] ^= 1
    keys.append(request_of(other).key)
    keys.append(request_of(shot(keep_detail=True)).key)
    keys.append(request_of(replace(shot(keep_detail=True), digest="of other geometry")).key)
    keys.append(request_of(shot(keep_detail="fine")).key)
    painted = tmp_path / "painted.png"
    painted.write_bytes(encode_png(np.full((HEIGHT, WIDTH, 3), 51, np.uint8)))
    keys.append(request_of(path=painted).key)
    keys.append(request_of(shot(num_frames=3)).key)
    keys.append(request_of(shot(render_size=(2 * WIDTH, 2 * HEIGHT))).key)
    keys.append(request_of(shot(name="other")).key)
    keys.append(request_of(shot(revision="of other weights")).key)
    assert len(set(keys)) == len(keys)
    assert request_of().key == keys[0]
    assert request_of(shot(keep_detail="whole")).key == request_of(shot(keep_detail=True)).key
    assert request_of(shot(keep_detail="fine")).job_key == request_of(shot(keep_detail=True)).job_key


# ── Making and finding ──────────────────────────────────────────────────────────────────────────────────────────────


def test_take_has_every_frame_and_says_what_it_is_made_of(request_of):
    asked = request_of()
    events = []
    with Peer() as peer:
        take = run_take(asked, peer.address, on_event=events.append)
    assert take.key == asked.key and take.folder == asked.folder and not take.cached
    assert take.frame_numbers == (11, 12)
    for index, path in enumerate(take.frames):
        np.testing.assert_array_equal(decode_png(path.read_bytes()), frame(index))
        np.testing.assert_array_equal(decode_png(take.tracking_frames[index].read_bytes()),
        asked.job.tracking_video[index])
    assert take.report["seed"] == 7 and take.report["prompt"] == "a vase"
    assert take.report["frame_numbers"] == [11, 12]
    assert take.timings["export"] == 0.5 and {"job", "frames", "job.done"} <= set(take.timings)
    assert events and take.job_id == job_key(asked.job)[:32]


def test_take_is_not_made_twice(request_of):
    with Peer() as peer:
        made = run_take(request_of(), peer.address)
        found = run_take(request_of(), peer.address)
        assert peer.seen[Submit] == 2  # once without its inputs, once with them: one job
    assert found == replace(made, cached=True) and find_take(request_of()) == found
    assert load_take(made.folder) == found
    assert run_take(request_of(), "tcp://127.0.0.1:9") == found  # no server needed


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n rubbish", None])
@pytest.mark.parametrize("part", ["frames", "tracking"])
def test_damaged_file_is_made_anew_from_what_is_whole(request_of, damage, part):
    with Peer() as peer:
        made = run_take(request_of(), peer.address)
        before = (made.folder / part / "0002.png").read_bytes()
        if damage is None:
            (made.folder / part / "0002.png").unlink()
        else:
            (made.folder / part / "0002.png").write_bytes(damage)
        assert find_take(request_of()) is None
        jobs = len(peer.jobs)
        again = run_take(request_of(), peer.address)
        assert len(peer.jobs) == jobs
    assert not again.cached and (made.folder / part / "0002.png").read_bytes() == before
    assert find_take(request_of()) is not None


def test_damaged_model_frame_is_asked_for_again(request_of):
    with Peer() as peer:
        made = run_take(request_of(), peer.address)
        made.model_frames[0].write_bytes(b"")
        made.frames[0].write_bytes(b"")
        again = run_take(request_of(), peer.address)
        assert len(peer.jobs) == 1  # the server still has them
    np.testing.assert_array_equal(decode_png(again.frames[0].read_bytes()), frame(0))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"layout": 1, "key": "x"}'])
def test_unreadable_description_is_no_take(request_of, text):
    with Peer() as peer:
        made = run_take(request_of(), peer.address)
    (made.folder / "take.json").write_text(text)
    assert find_take(request_of()) is None


def test_description_without_files_is_no_take(request_of):
    with Peer() as peer:
        made = run_take(request_of(), peer.address)
    said = json.loads((made.folder / "take.json").read_text())
    said["files"] = {}
    (made.folder / "take.json").write_text(json.dumps(said))
    assert find_take(request_of()) is None


def test_another_render_size_reuses_the_models_frames(request_of):
    with Peer() as peer:
        small = run_take(request_of(), peer.address)
        large = run_take(request_of(shot(render_size=(2 * WIDTH, 2 * HEIGHT))), peer.address)
        assert len(peer.jobs) == 1
    assert small.folder != large.folder and small.job_id == large.job_id
    assert decode_png(large.frames[1].read_bytes()).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert large.model_frames[1].read_bytes() == small.model_frames[1].read_bytes()


def test_frames_are_cropped_to_the_shot(request_of):
    with Peer() as peer:
        take = run_take(request_of(shot(render_size=(HEIGHT, HEIGHT))), peer.address)
    assert decode_png(take.frames[0].read_bytes()).shape == (HEIGHT, HEIGHT, 3)


def test_job_that_failed_leaves_no_take_and_no_frames(request_of):
    with Peer() as peer:
        peer.final = "FAILED"
        with pytest.raises(OutOfMemory):
            run_take(request_of(), peer.address)
    assert find_take(request_of()) is None
    assert not list(request_of().folder.rglob("*.png"))


@pytest.mark.parametrize("end", ["FAILED", None])
def test_take_that_failed_or_was_cancelled_is_rendered_when_it_is_asked_for_again(request_of, end):
    asked = request_of()
    with Peer() as peer:
        peer.final = end
        with pytest.raises(JobError):
            run_take(asked, peer.address, should_stop=lambda: end is None and bool(peer.jobs))
        peer.final = "DONE"
        take = run_take(asked, peer.address)
        assert list(peer.jobs) == [job_key(asked.job)[:32], take.job_id]
    assert find_take(asked) is not None


def test_two_renders_of_one_take_share_their_job(request_of, tmp_path):
    asked = request_of()
    elsewhere = replace(asked, folder=tmp_path / "another cache" / asked.key)
    with Peer() as peer:
        one, two = run_take(asked, peer.address), run_take(elsewhere, peer.address)
        assert list(peer.jobs) == [one.job_id] == [two.job_id]
    assert [path.read_bytes() for path in one.frames] == [path.read_bytes() for path in two.frames]


def test_job_whose_frames_found_no_place_is_not_rendered_again(request_of):
    asked = request_of()
    in_the_way = asked.folder / "model" / "0002.png"
    in_the_way.mkdir(parents=True)
    with Peer() as peer:
        with pytest.raises(StorageError, match="0002.png cannot be written"):
            run_take(asked, peer.address)
        in_the_way.rmdir()
        take = run_take(asked, peer.address)
        assert list(peer.jobs) == [take.job_id]


def test_take_whose_frames_the_server_lost_is_rendered_again(request_of):
    asked = request_of()
    with Peer() as peer:
        peer.on_request = lambda message: lose_frames_once(peer, message)
        take = run_take(asked, peer.address)
        assert list(peer.jobs) == [job_key(asked.job)[:32], take.job_id] and find_take(asked) is not None


def lose_frames_once(peer, message):
    """The peer forgets its results when they are first fetched."""
    if isinstance(message, Fetch) and len(peer.jobs) == 1:
        peer.results.clear()


# ── Once more ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_take_made_anew_has_a_job_of_its_own_and_takes_the_old_ones_place(request_of):
    asked = request_of()
    with Peer() as peer:
        first = run_take(asked, peer.address)
        seen = []
        peer.on_request = lambda message: seen.append(load_take(first.folder) == replace(first, cached=True))
        again = run_take(asked, peer.address, anew=True)
        assert all(seen) and len(peer.jobs) == 2
    assert again.job_id != first.job_id and not again.cached
    assert find_take(asked) == replace(again, cached=True) and again.frames == first.frames
    assert [path.name for path in asked.folder.parent.iterdir()] == [asked.key]


@pytest.mark.parametrize("end", ["FAILED", None])
def test_old_take_stays_when_the_new_one_fails(request_of, end):
    asked = request_of()
    with Peer() as peer:
        first = run_take(asked, peer.address)
        peer.final = end
        with pytest.raises(JobError):
            run_take(asked, peer.address, anew=True, should_stop=lambda: end is None and len(peer.jobs) == 2)
    assert find_take(asked) == replace(first, cached=True)
    assert [path.name for path in asked.folder.parent.iterdir()] == [asked.key]


def test_old_take_is_put_back_when_a_process_was_killed_between_the_two_renames(request_of):
    asked = request_of()
    with Peer() as peer:
        first = run_take(asked, peer.address)
        asked.folder.rename(asked.folder.with_name(f".{asked.key}.old"))
        assert find_take(asked) == replace(first, cached=True)
        asked.folder.rename(asked.folder.with_name(f".{asked.key}.old"))
        again = run_take(asked, peer.address, anew=True)
    assert find_take(asked) == replace(again, cached=True)
    assert [path.name for path in asked.folder.parent.iterdir()] == [asked.key]


def test_what_a_killed_process_left_of_a_new_take_is_removed_after_a_day(request_of):
    asked = request_of()
    left, young = (asked.folder.with_name(f".{asked.key}.{name}.anew") for name in ("left", "young"))
    for folder in (left, young):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    with Peer() as peer:
        run_take(asked, peer.address, anew=True)
    assert young.exists() and not left.exists()


def test_other_render_size_uses_the_take_that_was_made_last(request_of):
    small, large = request_of(), request_of(shot(render_size=(2 * WIDTH, 2 * HEIGHT)))
    with Peer() as peer:
        run_take(large, peer.address)
        os.utime(large.folder / "take.json", (0, 0))
        first = run_take(small, peer.address)
        again = run_take(small, peer.address, anew=True)
        third = run_take(request_of(shot(render_size=(3 * WIDTH, 3 * HEIGHT))), peer.address)
    assert third.job_id == again.job_id != first.job_id


@pytest.mark.parametrize("part", ["frames", "tracking"])
def test_take_stops_between_two_frames_and_goes_on_with_the_same_job(request_of, part):
    asked = request_of(shot(render_size=(HEIGHT, HEIGHT)))
    with Peer() as peer:
        with pytest.raises(JobCancelled):
            run_take(asked, peer.address, should_stop=(asked.folder / part / "0001.png").exists)
        assert not (asked.folder / part / "0002.png").exists() and find_take(asked) is None
        take = run_take(asked, peer.address)
        assert list(peer.jobs) == [take.job_id]


# ── Several processes, one cache ────────────────────────────────────────────────────────────────────────────────────


def test_take_that_is_being_made_is_waited_for(request_of):
    with Peer() as peer:
        peer.final = None
        first = Running(request_of(), peer.address)
        wait_for(lambda: peer.jobs)
        second, larger = (
            Running(request_of(), peer.address),
            Running(request_of(shot(render_size=(2 * WIDTH, 2 * HEIGHT))), peer.address),
        )
        wait_for(lambda: second.waits() and larger.waits())
        finish_job(peer)
        made, found, resized = first.wait(), second.wait(), larger.wait()
        assert len(peer.jobs) == 1
    assert not made.cached and found == replace(made, cached=True)
    assert decode_png(resized.frames[0].read_bytes()).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert not list((made.folder.parents[1] / "leases").iterdir())


def finish_job(peer: Peer) -> None:
    """The job that runs at ``peer`` is done."""
    (job,) = peer.jobs
    frames = [peer.keep(encode_png(frame(index)), "frame", "image/png", index) for index in range(2)]
    peer.add_event(job, "DONE", {"artefacts": frames, "report": {"seed": 7}})


def test_cancel_withdraws_one_of_two_who_want_a_take(request_of):
    with Peer() as peer:
        peer.final = None
        first = Running(request_of(), peer.address)
        wait_for(lambda: peer.jobs)
        second = Running(request_of(), peer.address)
        wait_for(second.waits)
        first.stop.set()
        assert isinstance(first.wait(), JobCancelled) and peer.seen[Cancel] == 0
        wait_for(lambda: peer.seen[Attach] >= 2)
        finish_job(peer)
        assert [second.wait().job_id] == list(peer.jobs)


def test_cancel_of_one_who_waits_stops_nobody_else(request_of):
    with Peer() as peer:
        peer.final = None
        first = Running(request_of(), peer.address)
        wait_for(lambda: peer.jobs)
        second = Running(request_of(), peer.address)
        wait_for(second.waits)
        second.stop.set()
        assert isinstance(second.wait(), JobCancelled)
        finish_job(peer)
        assert not isinstance(first.wait(), BaseException) and peer.seen[Cancel] == 0


def test_job_that_was_cancelled_on_the_server_stays_cancelled(request_of):
    asked = request_of()
    with Peer() as peer:
        peer.final = None
        run = Running(asked, peer.address)
        wait_for(lambda: peer.jobs)
        peer.add_event(next(iter(peer.jobs)), "CANCELLED", {})
        assert isinstance(run.wait(), JobCancelled) and len(peer.jobs) == 1
    assert not (asked.folder / "job.json").exists()
