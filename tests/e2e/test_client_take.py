# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole jobs from the client's side, through a real server: frames on disk, cancel, either side going away."""

import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from das_blender_addon.client import connection
from das_blender_addon.client.client import DasClient
from das_blender_addon.client.take import JobRequest, Log, Preview, Progress, run_job
from das_blender_addon.errors import (
    FirstFrameError,
    JobCancelled,
    JobRejected,
    ServerUnreachable,
    TransportTimeout,
    VersionMismatch,
)
from das_blender_addon.protocol.png import decode_png, encode_png
from tests.support.background import BackgroundJob
from tests.support.jobs import HEIGHT, WIDTH, carried_video, first_frame, job_id, job_spec, tracking_video
from tests.support.server import ROOT
from tests.support.wire import JOB_S, follow

LONG_STEPS = 100
SILENCE_S = 12.0
"""Of a server that is gone, longer than the pauses of one that works on a busy machine."""
KEPT = 5
TAKE_S = 2 * JOB_S
"""Longest time that a take may need when its server starts anew on a busy machine."""


def request(**changes) -> JobRequest:
    spec = job_spec(**{"kept_frames": KEPT} | changes)
    size = (spec.num_frames, spec.width, spec.height)
    return JobRequest(spec, tracking_video(*size), encode_png(first_frame(*size[1:])), carried_video(*size))


def wait_for(condition, what, timeout_s=TAKE_S):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")


def wait_for_step(running) -> list:
    """The running job's events up to its first denoising step."""
    seen = []

    def stepped():
        seen.extend(running.poll())
        assert not running.done, running.result(0)
        return any(isinstance(one, Progress) and one.stage == "denoising" and one.step > 0 for one in seen)

    wait_for(stepped, "a denoising step")
    return seen


def contents(outcome) -> list[bytes]:
    return [path.read_bytes() for path in outcome.frames]


# ── A take ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_take_brings_its_frames_previews_and_report(server, tmp_path):
    seen = []
    outcome = run_job(server.address, request(num_inference_steps=4), tmp_path / "frames", on_event=seen.append)
    assert [path.name for path in outcome.frames] == [f"{n:04d}.png" for n in range(1, KEPT + 1)]
    assert sorted((tmp_path / "frames").iterdir()) == outcome.frames
    assert [decode_png(image).shape for image in contents(outcome)] == [(HEIGHT, WIDTH, 3)] * KEPT
    assert outcome.report and list(outcome.timings) == [
        "submitted",
        "first_progress",
        "first_preview",
        "done",
        "downloaded",
    ]
    fractions = [one.fraction for one in seen if isinstance(one, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    stages = {one.stage for one in seen if isinstance(one, Progress)}
    assert {"uploading", "denoising", "decoding", "downloading"} <= stages
    previews = [one for one in seen if isinstance(one, Preview)]
    assert previews and all(one.media == "image/jpeg" and one.image[:2] == b"\xff\xd8" for one in previews)


def test_same_take_again_has_the_same_bytes(server, tmp_path):
    one, two = (run_job(server.address, request(seed=3), tmp_path / name) for name in "ab")
    assert one.job_id != two.job_id and contents(one) == contents(two)


def test_take_with_the_same_id_is_not_rendered_twice(server, tmp_path):
    job = job_id()
    one = run_job(server.address, request(), tmp_path, job_id=job)
    changed = [path.stat().st_mtime_ns for path in one.frames]
    two = run_job(server.address, request(), tmp_path, job_id=job)
    assert two.frames == one.frames and [path.stat().st_mtime_ns for path in two.frames] == changed


def test_take_that_cannot_be_is_rejected_before_anything_is_written(server, tmp_path):
    with pytest.raises(JobRejected) as caught:
        run_job(server.address, request(num_inference_steps=3), tmp_path / "frames")
    assert caught.value.field == "num_inference_steps" and not (tmp_path / "frames").exists()


def test_take_that_fails_is_the_error_of_its_class(server, tmp_path):
    wrong = replace(request(), first_frame_png=b"not a picture")
    with pytest.raises(FirstFrameError):
        run_job(server.address, wrong, tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


# ── Cancel ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancelled_take_ends_on_both_sides(server, tmp_path):
    job = job_id()
    running = BackgroundJob(server.address, request(num_inference_steps=LONG_STEPS), tmp_path / "frames", job_id=job)
    wait_for_step(running)
    running.cancel()
    with pytest.raises(JobCancelled):
        running.result(TAKE_S)
    with DasClient(server.address, timeout_s=60) as client:
        assert follow(client, job).last.kind == "CANCELLED"
    assert not (tmp_path / "frames").exists()


def test_take_is_not_cancelled_by_another_client(server, tmp_path):
    job = job_id()
    running = BackgroundJob(server.address, request(num_inference_steps=20), tmp_path / "frames", job_id=job)
    wait_for_step(running)
    with DasClient(server.address, timeout_s=60) as other:
        assert other.cancel(job).others == 1
    assert len(running.result(TAKE_S).frames) == KEPT


# ── Going away and coming back ──────────────────────────────────────────────────────────────────────────────────────

CLIENT_PROGRAM = """
import sys
from tests.e2e.test_client_take import request
from das_blender_addon.client.take import Progress, run_job

def tell(event):
    if isinstance(event, Progress):
        print(event.stage, event.step, flush=True)

run_job(sys.argv[1], request(num_inference_steps=20), sys.argv[2], job_id=sys.argv[3], on_event=tell)
"""


def test_client_that_is_killed_finds_its_job_again(server, tmp_path):
    job = job_id()
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT_PROGRAM, server.address, str(tmp_path / "frames"), job],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.split()[0] == "denoising" and int(line.split()[1]) > 0:
            break
    process.kill()
    process.wait(60)
    seen = []
    again = run_job(
        server.address, request(num_inference_steps=20), tmp_path / "frames", job_id=job, on_event=seen.append
    )
    assert len(again.frames) == KEPT
    assert sum(isinstance(one, Log) and one.text.startswith("Started on") for one in seen) == 1  # it ran once
    assert not any(isinstance(one, Progress) and one.stage == "uploading" for one in seen)


def test_server_that_is_killed_and_started_again_finishes_the_take(own_server, tmp_path):
    calm = run_job(own_server.address, request(num_inference_steps=20), tmp_path / "calm")
    running = BackgroundJob(own_server.address, request(num_inference_steps=20), tmp_path / "frames", timeout_s=TAKE_S)
    seen = wait_for_step(running)
    own_server.kill()
    own_server.start()
    outcome = running.result(TAKE_S)
    assert contents(outcome) == contents(calm)
    seen += running.poll()
    started = [one.text for one in seen if isinstance(one, Log) and one.text.startswith("Started on")]
    assert len(started) == 2 and "attempt 2" in started[1]


def test_server_that_stays_away_is_a_timeout_and_its_job_goes_on_later(own_server, tmp_path):
    job = job_id()
    running = BackgroundJob(
        own_server.address, request(num_inference_steps=20), tmp_path / "frames", job_id=job, timeout_s=SILENCE_S
    )
    wait_for_step(running)
    own_server.kill()
    with pytest.raises(TransportTimeout, match=f"fell silent for {SILENCE_S:g} s"):
        running.result(TAKE_S)
    assert not (tmp_path / "frames").exists()
    own_server.start()
    again = run_job(own_server.address, request(num_inference_steps=20), tmp_path / "frames", job_id=job)
    assert len(again.frames) == KEPT


def test_client_waits_for_a_server_that_is_still_starting(own_server, tmp_path):
    own_server.kill()
    running = BackgroundJob(own_server.address, request(), tmp_path / "frames", timeout_s=TAKE_S)
    time.sleep(0.5)
    own_server.start()
    assert len(running.result(TAKE_S).frames) == KEPT


# ── Strangers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_client_of_another_version_is_told(server, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "PROTOCOL_VERSIONS", (99,))
    with pytest.raises(VersionMismatch, match="99"):
        run_job(server.address, request(), tmp_path)


def test_program_that_is_no_server_is_not_waited_for_without_end(tmp_path):
    """A web server at the address: it accepts the connection and answers in its own words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def answer():
            listener.settimeout(0.1)
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            with pytest.raises(ServerUnreachable, match="No server answers"):
                run_job(f"127.0.0.1:{listener.getsockname()[1]}", request(), tmp_path, timeout_s=1.0)
        finally:
            stop.set()
            thread.join(60)
