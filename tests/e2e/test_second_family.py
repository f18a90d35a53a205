# SPDX-License-Identifier: GPL-3.0-or-later
"""A job of a model of another family, tiny and random, from request to pixels through a real server and its worker."""

import time

import numpy as np
import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import DasError
from das_blender_addon.protocol.png import decode_png
from tests.support.jobs import carried_video, job_spec
from tests.support.server import running_painter
from tests.support.wire import follow, is_step, submit

MODEL = "wan-vace-1.3b"
T, H, W = 9, 128, 144
SPEC = job_spec(
    model=MODEL, num_frames=T, kept_frames=7, width=W, height=H, num_inference_steps=2, guidance_scale=5.0, prompt="a"
)
HOLES = np.zeros((T, H, W), np.uint8)
HOLES[3:6, 40:70, 50:90] = 255


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    with running_painter(tmp_path_factory.mktemp("painter")) as server:
        yield server


def filled(level: int) -> np.ndarray:
    """The carried video with holes filled so."""
    video = carried_video(T, W, H)
    video[HOLES > 0] = level
    return video


def test_job_gives_frames_a_report_and_previews_whatever_its_holes_are_filled_with(painter):
    with DasClient(painter.address, timeout_s=60) as client:
        about = next(one for one in client.hello().capabilities.models if one.name == MODEL)
        assert about.installed and about.num_frames[-1] == 81 and about.frames_per_second == 16.0
        done = follow(client, submit(client, SPEC, carried=filled(0), arrays={"carried_holes": HOLES}))
        other = follow(client, submit(client, SPEC, carried=filled(255), arrays={"carried_holes": HOLES}))
        moved = follow(client, submit(client, SPEC, carried=filled(0), arrays={"carried_holes": np.roll(HOLES, 8, 2)}))
        shown = follow(client, submit(client, SPEC, carried=filled(0), arrays={
            "carried_holes": HOLES, "references": carried_video(2, W, H)}))  # fmt: skip
        artefacts = [one for one in done.last.fields["artefacts"] if one["role"] == "frame"]
        frames = [decode_png(client.fetch(one["sha"], one["size_bytes"])) for one in artefacts]
    assert done.kinds == ["QUEUED", "STARTED", "DONE"] and [frame.shape for frame in frames] == [(H, W, 3)] * 7
    assert done.frame_shas == other.frame_shas
    assert done.frame_shas != moved.frame_shas and done.frame_shas != shown.frame_shas
    assert [event.fields["step"] for event in done.events if event.kind == "PREVIEW"] == [0, 1]
    stages = [event.fields["stage"] for event in done.events if event.kind == "PROGRESS"]
    assert [stage for stage in dict.fromkeys(stages) if stage != "loading"] == [
        "encoding", "denoising", "decoding", "saving",
    ]  # fmt: skip
    report = shown.last.fields["report"]
    assert report["model"] == MODEL and report["carried"] and report["pipeline"]["num_references"] == 2
    assert report["pipeline"]["seed"] == SPEC.seed
    assert report["memory_profile"] == report["pipeline"]["profile"] == "cpu"


def test_job_is_cancelled_within_its_step_and_the_worker_goes_on(painter):
    worker = painter.status()["workers"][0]["pid"]
    with DasClient(painter.address, timeout_s=60) as client:
        job = submit(client, job_spec(model=MODEL, num_frames=T, kept_frames=T, width=W, height=H,
                     num_inference_steps=100), carried=False)  # fmt: skip
        seen = follow(client, job, until=is_step)
        client.cancel(job)
        cancelled_s = time.time()
        rest = follow(client, job, after=seen.last.seq)
        late = [event for event in rest.events if is_step(event) and event.time_s > cancelled_s]
        assert rest.last.kind == "CANCELLED" and len(late) <= 3
        assert follow(client, submit(client, SPEC, carried=False)).last.kind == "DONE"
        assert follow(client, submit(client)).last.kind == "DONE"  # of the embedded model
    assert painter.status()["workers"][0]["pid"] == worker


def test_carried_video_without_its_holes_is_refused(painter):
    with DasClient(painter.address) as client, pytest.raises(DasError, match="'carried_holes' is missing"):
        submit(client, SPEC)
