# SPDX-License-Identifier: GPL-3.0-or-later
"""`run_job` against a small peer: a whole job, and what may go wrong on its way."""

import dataclasses
import threading

import numpy as np
import pytest

from das_blender_addon.client import connection, job_run
from das_blender_addon.client.take import JobRequest, Log, Preview, Progress, job_inputs, run_job
from das_blender_addon.errors import (
    JobCancelled,
    JobRejected,
    OutOfMemory,
    ProtocolError,
    SettingsError,
    StorageError,
)
from das_blender_addon.protocol import codec, frames
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.png import decode_png, encode_png
from tests.support.messages import JOB
from tests.support.peer import HEIGHT, MODEL, NUM_FRAMES, PREVIEW_IMAGE, WIDTH, ask_once, frame

SPEC = m.JobSpec("mesh_to_video", "tiny", "a boat", "", 7, 2, 1.0, NUM_FRAMES, NUM_FRAMES - 1, WIDTH, HEIGHT)


def request(**changes):
    rng = np.random.default_rng(8)
    values = {
        "spec": SPEC,
        "tracking_video": rng.integers(0, 256, (NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8),
        "first_frame_png": encode_png(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)),
        "carried_video": rng.integers(0, 256, (NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8),
    }
    return JobRequest(**values | changes)


@pytest.fixture(autouse=True)
def _asked_once(monkeypatch):
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.2)
    ask_once(monkeypatch)


def assert_frames(paths, folder, count=NUM_FRAMES - 1):
    assert [path.name for path in paths] == [f"{n:04d}.png" for n in range(1, count + 1)]
    assert sorted(folder.iterdir()) == paths
    for index, path in enumerate(paths):
        assert np.array_equal(decode_png(path.read_bytes()), frame(index))


# ── A whole job ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_brings_its_frames(peer, tmp_path):
    seen = []
    outcome = run_job(peer.address, request(), tmp_path / "frames", on_event=seen.append, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path / "frames")
    assert outcome.report == {"seed": 7} and len(outcome.artefacts) == NUM_FRAMES
    assert peer.seen[m.Ack] == 1 and outcome.job_id in peer.jobs
    assert list(outcome.timings) == ["submitted", "first_progress", "first_preview", "done", "downloaded"]
    assert sorted(outcome.timings.values()) == list(outcome.timings.values())
    assert Preview(1, PREVIEW_IMAGE, "image/jpeg") in seen
    progress = [event for event in seen if isinstance(event, Progress)]
    stages = list(dict.fromkeys(event.stage for event in progress))
    assert stages == ["uploading", "queued", "denoising", "downloading"]
    assert [event.fraction for event in progress] == sorted(event.fraction for event in progress)
    assert progress[-1] == Progress("downloading", 2, 2, 1.0)
    texts = [event.text for event in seen if isinstance(event, Log)]
    assert texts[0] == f"Connected to test-peer 1 at {peer.address}."
    assert "Started on cpu (worker w0, attempt 1)." in texts


def test_priority_is_told_and_place_and_time_are_heard(peer, tmp_path):
    def on_request(message):
        if isinstance(message, m.Attach) and not told:
            told.append(message)
            peer.add_event(message.job, "QUEUED", {"position": 1, "eta_s": 90.0})
            peer.add_event(message.job, "QUEUED", {"position": 0, "eta_s": 20.0})
            peer.run_job(message.job)

    told, seen, peer.on_request = [], [], on_request
    run_job(peer.address, request(), tmp_path, on_event=seen.append, priority=m.INTERACTIVE, timeout_s=60.0)
    assert [one.priority for one in peer.jobs.values()] == [m.INTERACTIVE]
    queued = [(event.step, event.eta_s) for event in seen if isinstance(event, Progress) and event.stage == "queued"]
    assert queued[-3:] == [(1, None), (1, 90.0), (0, 20.0)]
    assert [event.text for event in seen if isinstance(event, Log) and "queue" in event.text] == [
        "Waiting in the queue; jobs before this one: 1."
    ]


def test_inputs_arrive_as_they_were(peer, tmp_path):
    sent = request()
    run_job(peer.address, sent, tmp_path, timeout_s=60.0)
    (submitted,) = peer.jobs.values()
    assert submitted.spec == SPEC
    inputs = {one.role: one for one in submitted.inputs}
    assert list(inputs) == ["tracking_video", "first_frame", "carried_video"]
    video, carried = (
        frames.decode_array(peer.blobs[one.sha], one.dtype, one.shape, one.codec)
        for one in (inputs["tracking_video"], inputs["carried_video"])
    )
    assert np.array_equal(video, sent.tracking_video)
    assert np.array_equal(carried, sent.carried_video)
    assert bytes(peer.blobs[inputs["first_frame"].sha]) == sent.first_frame_png


@pytest.mark.parametrize("codecs", [["raw"], ["zlib"], list(frames.CODECS), ["new"]], ids=str)
def test_inputs_use_a_codec_that_the_server_reads(codecs):
    capabilities = m.Capabilities("tiny", [MODEL], codecs, 1 << 20, [])
    _, inputs = job_inputs(request(), capabilities)
    assert {one.codec for one in inputs if one.media == "array"} <= {*codecs, "raw"}


@pytest.mark.parametrize(
    ("reads", "changes", "roles"),
    [
        ([], {}, ["tracking_video", "first_frame"]),
        (["carried_video"], {}, ["tracking_video", "first_frame", "carried_video"]),
        (["carried_video"], {"carried_video": None}, ["tracking_video", "first_frame"]),
        (["first_frame_xy"], {}, ["tracking_video", "first_frame"]),
    ],
)
def test_inputs_are_those_that_the_model_reads(reads, changes, roles):
    model = dataclasses.replace(MODEL, inputs=reads)
    _, inputs = job_inputs(request(**changes), m.Capabilities("tiny", [model], ["zlib"], 1 << 20, []))
    assert [one.role for one in inputs] == roles


def test_inputs_of_equal_requests_are_equal():
    capabilities = m.Capabilities("tiny", [MODEL], list(frames.CODECS), 1 << 20, [])
    assert job_inputs(request(), capabilities) == job_inputs(request(), capabilities)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tracking_video": np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)}, "tracking video is .2, 8, 16, 3. uint8"),
        ({"tracking_video": np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3))}, "float64, the job's settings ask for"),
        ({"carried_video": np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)}, "carried video is .2, 8, 16, 3. uint8"),
        ({"carried_video": np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.float32)}, "carried video is .* float32"),
        ({"first_frame_png": b""}, "first frame is an empty file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_request_that_does_not_fit_its_settings_is_refused_and_nothing_is_submitted(peer, tmp_path, changes, words):
    with pytest.raises(SettingsError, match=words):
        run_job(peer.address, request(**changes), tmp_path, timeout_s=60.0)
    assert peer.seen[m.Submit] == peer.seen[m.Cancel] == 0


# ── Again ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_second_call_with_the_same_id_uploads_and_fetches_nothing(peer, tmp_path):
    first = run_job(peer.address, request(), tmp_path, job_id=JOB, timeout_s=60.0)
    puts, fetches = peer.seen[m.Put], peer.seen[m.Fetch]
    peer.results.clear()
    second = run_job(peer.address, request(), tmp_path, job_id=JOB, timeout_s=60.0)
    assert second.frames == first.frames and second.job_id == JOB
    assert peer.seen[m.Put] == puts
    assert peer.seen[m.Fetch] == fetches + 1  # the preview, which is gone and not missed


def test_damaged_and_missing_frames_are_fetched_again(peer, tmp_path):
    first = run_job(peer.address, request(), tmp_path, job_id=JOB, timeout_s=60.0)
    first.frames[0].write_bytes(b"")
    run_job(peer.address, request(), tmp_path, job_id=JOB, timeout_s=60.0)
    assert_frames(first.frames, tmp_path)


def test_frame_that_the_server_has_damaged_is_asked_for_again(peer, tmp_path):
    seen = []
    peer.damage_fetches = 2 + 3 + 1  # the preview twice, all three frames, the first one again
    outcome = run_job(peer.address, request(), tmp_path, on_event=seen.append, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path)
    assert Log("The server no longer has all frames of the job; asking for it again.") in seen


def test_server_that_lost_the_job_is_given_it_again(peer, tmp_path):
    peer.final = None
    seen = []

    def forget_once(event):
        seen.append(event)
        if isinstance(event, Preview) and peer.final is None:
            peer.final = "DONE"
            peer.jobs.clear()
            peer.blobs.clear()

    outcome = run_job(peer.address, request(), tmp_path, on_event=forget_once, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path)
    assert Log("The server no longer knows the job; sending it again.") in seen


# ── Not finishing ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_failed_job_is_the_error_of_its_code(peer, tmp_path):
    peer.final = "FAILED"
    with pytest.raises(OutOfMemory, match="Too big"):
        run_job(peer.address, request(), tmp_path / "frames", timeout_s=60.0)
    assert not (tmp_path / "frames").exists() and peer.seen[m.Cancel] == 0


def test_rejected_job_names_the_field(peer, tmp_path):
    peer.say[m.Submit] = JobRejected("seed is -1; use 0 or more.", field="seed")
    with pytest.raises(JobRejected) as caught:
        run_job(peer.address, request(), tmp_path, timeout_s=60.0)
    assert caught.value.field == "seed" and peer.seen[m.Cancel] == 0


def test_job_cancelled_by_somebody_else_is_cancelled(peer, tmp_path):
    peer.final = None

    def cancel(event):
        if isinstance(event, Preview):
            peer.add_event(*peer.jobs, "CANCELLED", {})

    with pytest.raises(JobCancelled, match="was cancelled on the server"):
        run_job(peer.address, request(), tmp_path, on_event=cancel, timeout_s=60.0)
    assert peer.seen[m.Cancel] == 0


def test_stopped_job_is_cancelled_on_the_server(peer, tmp_path):
    peer.final = None
    stop = threading.Event()

    def stop_at_preview(event):
        if isinstance(event, Preview):
            stop.set()

    with pytest.raises(JobCancelled, match="Stopped by the user"):
        run_job(peer.address, request(), tmp_path, on_event=stop_at_preview, should_stop=stop.is_set, timeout_s=60.0)
    assert peer.seen[m.Cancel] == 1
    assert [event.kind for event in peer.events[next(iter(peer.jobs))]][-1] == "CANCELLED"


def test_job_stopped_before_it_is_submitted_is_not_cancelled(peer, tmp_path):
    with pytest.raises(JobCancelled):
        run_job(peer.address, request(), tmp_path, should_stop=lambda: True, timeout_s=60.0)
    assert peer.seen[m.Cancel] == peer.seen[m.Submit] == 0


def test_job_stopped_before_it_is_followed_is_cancelled_and_its_end_not_waited_for(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(job_run, "CANCEL_WAIT_S", 5.0)
    peer.drop[m.Attach] = 1000
    with pytest.raises(JobCancelled, match="Stopped by the user"):
        run_job(peer.address, request(), tmp_path, should_stop=lambda: peer.seen[m.Attach] > 0, timeout_s=60.0)
    assert peer.seen[m.Cancel] == 1
    assert peer.seen[m.Ping] == 0  # which it would say every 0.2 s of waiting


def test_defect_of_the_caller_cancels_the_job(peer, tmp_path):
    peer.final = None

    def defect(event):
        if isinstance(event, Preview):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(peer.address, request(), tmp_path, on_event=defect, timeout_s=60.0)
    assert peer.seen[m.Cancel] == 1


def test_result_without_all_frames_is_a_protocol_error_and_leaves_no_frame(peer, tmp_path):
    peer.final = None

    def finish_short(event):
        if isinstance(event, Preview):
            (job,) = peer.jobs
            artefact = peer.keep(encode_png(frame(0)), "frame", "image/png", 0)
            peer.add_event(job, "DONE", {"artefacts": [artefact], "report": {}})

    with pytest.raises(ProtocolError, match="with 1 PNG frames, 2 were asked for"):
        run_job(peer.address, request(), tmp_path / "frames", on_event=finish_short, timeout_s=60.0)
    assert not (tmp_path / "frames").exists()


def test_folder_that_cannot_be_written_is_a_storage_error(peer, tmp_path):
    (tmp_path / "frames").write_bytes(b"a file, not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        run_job(peer.address, request(), tmp_path / "frames", timeout_s=60.0)


def test_server_that_never_has_enough_is_left(peer, tmp_path):
    peer.on_request = lambda message: peer.blobs.clear() if type(message) is m.Submit else None
    with pytest.raises(ProtocolError, match="asked 4 times for inputs that it was sent"):
        run_job(peer.address, request(), tmp_path, timeout_s=60.0)
    assert peer.seen[m.Submit] == job_run._SUBMIT_ROUNDS


def test_event_of_an_unknown_kind_is_passed_over(peer, tmp_path):
    outcome = []

    def pause(event):
        if isinstance(event, Preview):
            peer.add_event(*peer.jobs, "PAUSED", {"why": "lunch"})
            artefacts = [peer.keep(encode_png(frame(i)), "frame", "image/png", i) for i in range(NUM_FRAMES - 1)]
            peer.add_event(*peer.jobs, "DONE", {"artefacts": artefacts, "report": codec.to_plain(SPEC)})

    peer.final = None
    outcome = run_job(peer.address, request(), tmp_path, on_event=pause, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path)
