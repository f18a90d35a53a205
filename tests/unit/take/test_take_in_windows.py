# SPDX-License-Identifier: GPL-3.0-or-later
"""A take of a shot that is longer than the model's window: one job for each window, joined to one frame each."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.client.take import Progress
from das_blender_addon.errors import JobCancelled, OutOfMemory, SettingsError, StorageError
from das_blender_addon.protocol.messages import Cancel
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.take.cache import TakeSettings, find_take, job_key, load_take, over_white, take_request
from das_blender_addon.take.each_frame import THREADS
from das_blender_addon.take.run import MOST_JOBS, run_take
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.peer import HEIGHT, MODEL, NUM_FRAMES, WIDTH, Peer, ask_once, frame
from tests.support.running import Running, wait_for
from tests.support.shots import pattern, request_of_shot, wall_shot

SETTINGS = TakeSettings(prompt="a vase", seed=7)
LEVELS = [0, 10, 10, 10, 10, 10, 20]
"""Of a shot of 7 frames in windows of 3 that share one frame: the peer paints 0, 10 and 20 in every window, and half of
20 and half of 0 is 10."""


def shot(num_frames=7, keys=(), size=(WIDTH, HEIGHT), **options):
    """A shot of the peer's model: with 7 frames, its windows are the frames 0-2, 2-4 and 4-6, no two alike."""
    inputs, faster = options.pop("inputs", []), options.pop("faster", 0.05)
    model = model_capability(num_frames=[NUM_FRAMES], sizes=[[WIDTH, HEIGHT]], inputs=inputs)
    made = plan(range(11, 11 + num_frames), size, (1.0, 1.0), capabilities_of(model), **options)
    return wall_shot(plan_with_keys(made, keys), faster=faster)


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


def finish(peer, job) -> None:
    kept = peer.jobs[job].spec.kept_frames
    frames = [peer.keep(encode_png(frame(index)), "frame", "image/png", index) for index in range(kept)]
    peer.add_event(job, "DONE", {"artefacts": frames, "report": {"seed": 7}})


def levels(paths) -> list[int]:
    """The level of each frame, which is the same everywhere in it."""
    pictures = [decode_png(path.read_bytes()) for path in paths]
    assert all(picture.min() == picture.max() for picture in pictures)
    return [int(picture.flat[0]) for picture in pictures]


# ── What the windows are made of ────────────────────────────────────────────────────────────────────────────────────


def test_take_has_one_frame_for_each_of_the_shot_and_overlaps_are_mixed(request_of, peer):
    take = run_take(request_of(), peer.address)
    assert len(peer.jobs) == 3 and [path.name for path in take.frames] == [f"{n:04d}.png" for n in range(1, 8)]
    assert levels(take.model_frames) == levels(take.frames) == LEVELS
    assert take.frame_numbers == tuple(range(11, 18)) and len(take.tracking_frames) == 7
    assert load_take(take.folder) == find_take(request_of()) == replace(take, cached=True)


def test_window_that_no_picture_begins_starts_with_the_frame_that_the_one_before_made(request_of, peer):
    asked = request_of()
    run_take(asked, peer.address)
    first, second, third = peer.jobs
    assert peer.input_of(first, "first_frame") == asked.first_frame_png
    assert peer.input_of(second, "first_frame") == peer.input_of(third, "first_frame") == encode_png(frame(2))
    for number, job in enumerate(peer.jobs):
        np.testing.assert_array_equal(peer.array_of(job, "tracking_video"), asked.shot.videos[number].video)


def test_window_that_follows_another_waits_for_it(request_of, peer):
    peer.final = None
    running = Running(request_of(), peer.address)
    for count in (1, 2, 3):
        wait_for(lambda: len(peer.jobs) == count)  # noqa: B023
        assert len(peer.jobs) == count
        finish(peer, list(peer.jobs)[-1])
    assert levels(running.wait().frames) == LEVELS


def test_windows_that_ask_for_the_same_share_a_job(request_of, peer):
    take = run_take(request_of(shot(faster=0.0)), peer.address)
    assert levels(take.frames) == LEVELS and len(peer.jobs) == 2


def test_prompt_of_a_window_is_that_of_its_first_frame(request_of, peer, tmp_path):
    """Of markers at the frames 12, before all windows, and 15: windows begin at 11, 13 and 15."""
    made, picture = shot(), tmp_path / "first.png"
    picture.write_bytes(encode_png(pattern((WIDTH, HEIGHT))))

    def asked(*prompts_at):
        return take_request(made, picture, replace(SETTINGS, prompts_at=prompts_at), tmp_path / "shot")

    take = run_take(asked((12, "a lamp"), (15, "")), peer.address)
    assert [job.spec.prompt for job in peer.jobs.values()] == ["a vase", "a lamp", "a vase"]
    assert (take.report["prompt"], take.report["prompts_at"]) == ("a vase", [[12, "a lamp"], [15, ""]])
    run_take(asked((12, "a lamp"), (15, "a cat")), peer.address)
    assert [job.spec.prompt for job in peer.jobs.values()][3:] == ["a cat"]  # only what it changes is made
    assert len({asked(*at).key for at in ((), ((12, "b"),), ((12, "c"),), ((15, "b"),))}) == 4
    assert asked((90, "later")).key == asked().key and asked((-4, "a cat")).job.spec.prompt == "a cat"


def test_window_that_a_key_picture_begins_starts_with_that(request_of, peer):
    asked = request_of(shot(keys=[2, 4]))
    run_take(asked, peer.address)
    assert [asked.follows(number) for number in range(3)] == [False] * 3
    pictures = [peer.input_of(job, "first_frame") for job in peer.jobs]
    assert pictures == [picture.png for picture in asked.pictures] and len(set(pictures)) == 3


def test_window_of_a_model_that_reads_a_carried_video_gets_its_part_and_starts_with_it(request_of, peer):
    asked = request_of(shot(inputs=["carried_video"], keep_detail=False))
    run_take(asked, peer.address)
    whole = asked.detail.carried(range(7))
    for number, job in enumerate(peer.jobs):
        start = asked.plan.windows[number].start
        np.testing.assert_array_equal(peer.array_of(job, "carried_video"), whole[start : start + NUM_FRAMES])
        np.testing.assert_array_equal(decode_png(peer.input_of(job, "first_frame")), whole[start])


HOLES_AND_REFERENCES = ["carried_video", "carried_holes", "references"]


@pytest.fixture
def painter():
    """A peer whose model is told of holes and shown references."""
    with Peer(model=replace(MODEL, inputs=HOLES_AND_REFERENCES)) as painter:
        yield painter


def test_window_of_a_model_that_is_told_of_holes_gets_what_no_picture_shows(request_of, painter):
    asked = request_of(shot(inputs=HOLES_AND_REFERENCES, keys=[4], keep_detail=False))
    run_take(asked, painter.address)
    whole = asked.detail.carried_with_alpha(range(7))
    assert not (whole[[0, 4], ..., 3] == 0).any() and (whole[5:, ..., 3] == 0).any(axis=(1, 2)).all()
    for number, job in enumerate(painter.jobs):
        part = whole[asked.plan.windows[number].start :][:NUM_FRAMES]
        np.testing.assert_array_equal(painter.array_of(job, "carried_video"), part[..., :3])
        np.testing.assert_array_equal(painter.array_of(job, "carried_holes"), 255 - part[..., 3])


def test_window_is_shown_the_key_pictures_around_it_that_it_does_not_hold(request_of, painter):
    """Of the frames 0 to 2, 2 to 4 and 4 to 6; those within are whole frames of the carried video."""
    asked = request_of(shot(inputs=HOLES_AND_REFERENCES, keys=[1, 4, 6], keep_detail=False))
    run_take(asked, painter.address)
    assert [asked.plan.references_for(window) for window in asked.plan.windows] == [(4,), (1, 6), (1,)]
    of_key = {picture.index: picture.pixels for picture in asked.pictures}
    for number, job in enumerate(painter.jobs):
        shown = [of_key[key] for key in asked.plan.references_for(asked.plan.windows[number])]
        np.testing.assert_array_equal(painter.array_of(job, "references"), np.stack(shown))
        holes, start = painter.array_of(job, "carried_holes"), asked.plan.windows[number].start
        for key in asked.plan.keys:
            if start <= key < start + NUM_FRAMES:
                assert not holes[key - start].any()
                np.testing.assert_array_equal(painter.array_of(job, "carried_video")[key - start], of_key[key])


def test_holes_and_references_are_part_of_a_windows_key(request_of):
    job = request_of(shot(inputs=HOLES_AND_REFERENCES, keys=[4], keep_detail=False)).job
    others = [
        replace(job, carried_holes=255 - job.carried_holes),
        replace(job, references=255 - job.references),
        replace(job, references=None),
        replace(job, carried_holes=None),
    ]
    assert len({job_key(one) for one in (job, *others)}) == 5


def test_picture_that_is_painted_in_part_is_shown_on_white():
    picture = np.full((2, 2, 4), (100, 50, 0, 255), np.uint8)
    picture[0, 0, 3], picture[0, 1, 3] = 0, 51
    assert over_white(picture).tolist() == [[[255] * 3, [224, 214, 204]], [[100, 50, 0]] * 2]
    np.testing.assert_array_equal(over_white(picture[..., :3]), picture[..., :3])


def test_last_window_is_filled_by_holding_the_last_frame_where_a_key_begins_it(request_of, peer):
    asked = request_of(shot(num_frames=6, keys=[2, 4]))
    take = run_take(asked, peer.address)
    last = list(peer.jobs)[-1]
    assert (peer.jobs[last].spec.num_frames, peer.jobs[last].spec.kept_frames) == (3, 2)
    sent = peer.array_of(last, "tracking_video")
    np.testing.assert_array_equal(sent[2], sent[1])
    assert levels(take.frames) == [0, 10, 10, 10, 10, 10]


# ── Frames that keep the key pictures' detail ───────────────────────────────────────────────────────────────────────


def test_frames_of_several_windows_are_composed_at_the_renders_size(request_of, peer):
    asked = request_of(shot(keys=[4], size=(2 * WIDTH, 2 * HEIGHT), inputs=["carried_video"]))
    take = run_take(asked, peer.address)
    assert {decode_png(path.read_bytes()).shape for path in take.frames} == {(2 * HEIGHT, 2 * WIDTH, 3)}
    assert levels(take.model_frames) == LEVELS
    for key, picture in zip(asked.plan.keys, asked.pictures, strict=True):
        np.testing.assert_array_equal(decode_png(take.frames[key].read_bytes()), picture.pixels)
    said = json.loads((take.folder / "take.json").read_text())["report"]
    assert said["keep_detail"] and [one["frame"] for one in said["key_pictures"]] == [11, 15]


def test_job_is_prepared_before_more_than_a_look_is_composed(request_of, peer):
    asked, held = request_of(shot(num_frames=21, keys=[4], inputs=["carried_video"])), []

    def on_event(event):
        if isinstance(event, Progress) and event.stage == "carrying" and not held:
            time.sleep(0.3)  # composing has the processor to itself
            held.append(len(asked.detail._ahead))

    run_take(asked, peer.address, on_event=on_event)
    assert held and held[0] <= 2 + THREADS


def test_pictures_are_as_many_as_the_plan_has(tmp_path):
    path = tmp_path / "first.png"
    path.write_bytes(encode_png(pattern((WIDTH, HEIGHT))))
    with pytest.raises(SettingsError, match="are 1 key pictures, .* one at each of the frames 11, 15") as caught:
        take_request(shot(keys=[4]), path, SETTINGS, tmp_path)
    assert caught.value.field == "key_pictures"
    with pytest.raises(SettingsError, match="are 2 key pictures"):
        take_request(shot(), path, SETTINGS, tmp_path, keys=[path])


def test_key_of_the_take_follows_every_picture(request_of, tmp_path):
    before = request_of(shot(keys=[4])).key
    made = shot(keys=[4])
    first, other = (tmp_path / f"{name}.png" for name in ("first", "other"))
    first.write_bytes(encode_png(pattern((WIDTH, HEIGHT), seed=0)))
    other.write_bytes(encode_png(pattern((WIDTH, HEIGHT), seed=5)))
    keys = [before, take_request(made, first, SETTINGS, tmp_path / "shot", keys=[other]).key]
    keys += [request_of().key, request_of(shot(keys=[3])).key]
    assert len(set(keys)) == 4 and request_of(shot(keys=[4])).key == before


# ── Their jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{"keys": [2, 4]}, {"inputs": ["carried_video"], "keep_detail": False}], ids=str)
def test_windows_that_follow_no_other_are_made_at_the_same_time(request_of, peer, options):
    peer.final = None
    running = Running(request_of(shot(**options)), peer.address)
    wait_for(lambda: len(peer.jobs) == 3)
    for job in reversed(list(peer.jobs)):
        finish(peer, job)
    assert levels(running.wait().frames) == LEVELS


def test_no_more_than_a_few_are_made_at_the_same_time_the_first_ones_first(request_of, peer):
    peer.final = None
    asked = request_of(shot(num_frames=2 * MOST_JOBS + 5, inputs=["carried_video"], keep_detail=False))
    assert len(asked.plan.windows) == MOST_JOBS + 2
    running = Running(asked, peer.address)
    wait_for(lambda: len(peer.jobs) == MOST_JOBS)
    sent = [peer.array_of(job, "tracking_video") for job in peer.jobs]
    for number, video in enumerate(sent):
        np.testing.assert_array_equal(video, asked.shot.videos[number].video)
    assert len(peer.jobs) == MOST_JOBS
    finished = set()
    while len(finished) < len(asked.plan.windows):
        wait_for(lambda: set(peer.jobs) - finished)  # noqa: B023
        job = next(job for job in list(peer.jobs) if job not in finished)
        finish(peer, job)
        finished.add(job)
    assert not isinstance(running.wait(), BaseException)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_window_that_fails_stops_the_others_and_its_error_is_told(request_of, peer, number):
    peer.final = None
    asked = request_of(shot(keys=[2, 4]))
    running = Running(asked, peer.address)
    wait_for(lambda: len(peer.jobs) == 3)
    failing = list(peer.jobs)[number]
    peer.add_event(failing, "FAILED", {"code": "job.out_of_memory", "message": "Too big.", "field": ""})
    error = running.wait()
    assert isinstance(error, OutOfMemory) and error.message == "Too big."
    cancelled = {message.job for message in peer.requests if isinstance(message, Cancel)}
    assert cancelled == set(peer.jobs) - {failing} and find_take(asked) is None


def test_window_that_fails_ends_those_that_would_follow(request_of, peer):
    peer.final = "FAILED"
    asked = request_of()
    with pytest.raises(OutOfMemory):
        run_take(asked, peer.address)
    assert len(peer.jobs) == 1 and find_take(asked) is None


def test_take_that_is_cancelled_withdraws_all_its_windows(request_of, peer):
    peer.final = None
    asked = request_of(shot(keys=[2, 4]))
    running = Running(asked, peer.address)
    wait_for(lambda: len(peer.jobs) == 3)
    running.stop.set()
    assert isinstance(running.wait(), JobCancelled)
    assert {message.job for message in peer.requests if isinstance(message, Cancel)} == set(peer.jobs)
    assert find_take(asked) is None


def test_take_that_is_cancelled_after_some_windows_keeps_them(request_of, peer):
    asked = request_of(shot(keys=[2, 4]))
    first = asked.folder / "windows" / "01" / "0003.png"
    with pytest.raises(JobCancelled):
        run_take(asked, peer.address, should_stop=lambda: first.exists())
    jobs = set(peer.jobs)
    assert levels(run_take(asked, peer.address).frames) == LEVELS
    done = [job for job in jobs if peer.events[job][-1].kind == "DONE"]
    assert done and all(list(peer.jobs).count(job) == 1 for job in done)


def test_take_that_somebody_deletes_while_it_is_made_is_told_and_made_the_next_time(request_of, peer):
    asked, deleted = request_of(), []

    def delete_once() -> bool:
        if not deleted and (asked.folder / "tracking" / "0002.png").exists():
            deleted.append(shutil.rmtree(asked.folder))
        return False

    with pytest.raises(StorageError, match="The take lost .*, .*deleted it meanwhile; render the take again"):
        run_take(asked, peer.address, should_stop=delete_once)
    assert deleted and levels(run_take(asked, peer.address).frames) == LEVELS


# ── What is there already ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{}, {"inputs": ["carried_video"]}], ids=str)
def test_longer_take_renders_only_the_windows_that_are_new(request_of, peer, options):
    run_take(request_of(shot(num_frames=5, **options)), peer.address)
    before = set(peer.jobs)
    assert len(before) == 2
    longer = run_take(request_of(shot(num_frames=7, **options)), peer.address)
    assert len(set(peer.jobs) - before) == 1 and len(longer.frames) == 7
    assert levels(longer.model_frames) == LEVELS


def test_damaged_frame_of_a_window_is_asked_for_again_and_no_other(request_of, peer):
    asked = request_of()
    made = run_take(asked, peer.address)
    (made.folder / "windows" / "02" / "0002.png").write_bytes(b"")
    made.frames[3].unlink()
    again = run_take(asked, peer.address)
    assert levels(again.frames) == LEVELS and len(peer.jobs) == 3
    assert load_take(made.folder) is not None


def test_description_says_what_each_window_was(request_of, peer):
    take = run_take(request_of(), peer.address)
    said = json.loads((take.folder / "take.json").read_text())
    assert [one["frames"] for one in said["windows"]] == [[11, 13], [13, 15], [15, 17]]
    assert [one["part"] for one in said["windows"]] == ["windows/01", "windows/02", "windows/03"]
    assert [one["job_id"] for one in said["windows"]] == list(peer.jobs) and take.job_id == next(iter(peer.jobs))
    assert all(one["job_key"].startswith(one["job_id"]) for one in said["windows"])
    files = sorted(path.relative_to(take.folder).as_posix() for path in take.folder.rglob("*.png"))
    assert sorted(said["files"]) == files


def test_take_made_anew_has_new_jobs_for_all_its_windows(request_of, peer):
    asked = request_of()
    first = run_take(asked, peer.address)
    again = run_take(asked, peer.address, anew=True)
    assert len(peer.jobs) == 6 and again.job_id != first.job_id
    assert find_take(asked) == replace(again, cached=True) and levels(again.frames) == LEVELS


# ── Progress ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [{}, {"keys": [2, 4]}, {"inputs": ["carried_video"]}, {"num_frames": 3, "inputs": ["carried_video"]}],
    ids=str,
)
def test_progress_is_that_of_the_whole_take_and_ends_at_its_end(request_of, peer, options):
    seen = []
    run_take(request_of(shot(**options)), peer.address, on_event=seen.append)
    progress = [event for event in seen if isinstance(event, Progress)]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    carries = "inputs" in options
    assert ({"carrying", "composing"} <= {event.stage for event in progress}) == carries
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
