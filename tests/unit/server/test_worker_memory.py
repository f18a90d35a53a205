# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose memory does not suffice: again with a smaller profile that frees something, told to the user.

The worker, its link, the pipeline and the error are real: PyTorch is asked for more than any machine has.
"""

import dataclasses
import queue

import pytest
import torch

from das_blender_addon.errors import OutOfMemory
from das_server.blobs import BlobStore
from das_server.pipeline import placement
from das_server.tasks import base
from das_server.workers.child import Worker
from das_server.workers.link import Link
from tests.support.jobs import job_id, job_spec


class House:
    """One worker in this process, and what it has said to its server."""

    def __init__(self, folder, profile):
        self.blobs = BlobStore(folder)
        self.link = Link("ipc://unused", "worker-0.1", "secret", parent=0)  # never started: its words stay queued
        self.worker = Worker(self.link, folder, device="cpu", threads=1, profile=profile)

    def run(self, hungry_profiles, **options):
        """Messages about a job that runs out of memory with these profiles."""
        spec = job_spec(task="hungry", model="das-preview", prompt=" ".join(hungry_profiles), options=options)
        order = {"kind": "run", "job": job_id(), "attempt": 1, "spec": dataclasses.asdict(spec), "inputs": []}
        self.worker._run(order)
        said = []
        while True:
            try:
                said.append(self.link._words.get_nowait())
            except queue.Empty:
                return [one for one in said if one["kind"] != "progress"]

    def pixels(self, done):
        return [self.blobs.read(one["sha"]) for one in done["artefacts"]]


@pytest.fixture
def open_house(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASK_MODULES, "hungry", "tests.support.hungry_task")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return lambda profile: House(tmp_path, profile)


def test_job_is_done_with_the_next_smaller_profile_and_the_user_is_told(open_house):
    house = open_house("resident")
    (expected,) = house.run([])
    retry, done = house.run(["resident"])
    assert (retry["kind"], retry["code"], retry["attempt"]) == ("retry", "job.out_of_memory", 1)
    assert retry["message"] == (
        "The memory does not suffice with the profile resident; once more with drop_text_encoder, which is slower."
    )
    assert done["kind"] == "done"
    assert done["report"]["memory_profile"] == done["report"]["pipeline"]["profile"] == "drop_text_encoder"
    assert expected["report"]["memory_profile"] == "resident"
    assert house.pixels(done) == house.pixels(expected)

    retry, done = house.run(["drop_text_encoder"])  # the smaller profile has stayed
    assert done["report"]["memory_profile"] == "group_offload"
    assert house.pixels(done) == house.pixels(expected)


def test_job_is_tried_with_every_smaller_profile(open_house):
    house = open_house("resident")
    house.run([])  # the text encoder is loaded now
    first, second, done = house.run(["resident", "drop_text_encoder"])
    assert "once more with drop_text_encoder" in first["message"]
    assert "once more with group_offload" in second["message"]
    assert (done["kind"], done["report"]["memory_profile"]) == ("done", "group_offload")


def test_job_is_tried_no_more_where_the_smallest_profile_does_not_suffice(open_house):
    house = open_house("resident")
    house.run([])
    *retries, failed = house.run(["resident", "drop_text_encoder", "group_offload"])
    assert [one["kind"] for one in retries] == ["retry", "retry"]
    assert (failed["kind"], failed["code"]) == ("failed", "job.out_of_memory")
    assert "use fewer or smaller frames" in failed["message"] and "\n" not in failed["message"]


def test_profile_that_frees_nothing_is_passed_over(open_house):
    """The prompt was known, so there is no text encoder to drop."""
    retry, done = open_house("resident").run(["resident", "drop_text_encoder"])
    assert "once more with group_offload" in retry["message"]
    assert (done["kind"], done["report"]["memory_profile"]) == ("done", "group_offload")


def test_clip_refused_for_a_text_encoder_to_come_is_tried_without_it(open_house):
    house = open_house("resident")
    pipeline = house.worker._load("das-preview")
    assert placement.smaller_profile(pipeline, OutOfMemory("A clip needs …")) == "drop_text_encoder"
    assert placement.smaller_profile(pipeline, torch.OutOfMemoryError("…")) == "group_offload"


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_libraries_of_a_gpu_run_out_of_memory_in_words_of_their_own(open_house, words):
    house = open_house("drop_text_encoder")
    house.worker._load("das-preview")
    house.worker._device = "cuda:0"
    retry, done = house.run(["drop_text_encoder"], words=words)
    assert (retry["code"], done["report"]["memory_profile"]) == ("job.out_of_memory", "group_offload")
    (failed,) = house.run(["group_offload"], words=words)
    assert (failed["code"], failed["kind"]) == ("job.out_of_memory", "failed")


def test_want_of_host_memory_leaves_the_profile_of_a_gpu_alone(open_house):
    house = open_house("resident")
    pipeline = house.worker._load("das-preview")
    house.worker._device = "cuda:0"
    (failed,) = house.run(["resident"])
    assert (failed["code"], pipeline.profile) == ("job.out_of_memory", "resident")
    assert "the memory of this machine" in failed["message"]


def test_retry_begins_the_clock_of_stalls_anew(open_house):
    """A model of 16 GB takes a while to move: the steps of the first try must not be the measure for that."""
    link = open_house("resident").link
    order = {"job": job_id(), "attempt": 1}
    for step in range(4):
        link.progress(order, {"stage": "denoising", "step": step, "of": 9, "elapsed_s": 0.0})
    assert link._heartbeat(0.0)["step_s"] > 0
    link.retry(order, "job.out_of_memory", "once more")
    beat = link._heartbeat(0.0)
    assert (beat["stage"], beat["step_s"]) == ("", 0.0)


@pytest.mark.parametrize("profile", ["cpu", "group_offload"])
def test_job_fails_at_once_where_no_smaller_profile_is_left(open_house, profile):
    (failed,) = open_house(profile).run([profile])
    assert (failed["kind"], failed["code"]) == ("failed", "job.out_of_memory")


def test_worker_whose_device_is_lost_while_it_loads_a_model_ends(open_house, monkeypatch):
    """Its successor has a working device; this one would fail every job."""

    def lost(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def end(status):
        raise SystemExit(status)

    house = open_house("resident")
    monkeypatch.setattr(torch.nn.Module, "to", lost)
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(SystemExit) as ended:
        house.worker._warm_up("das-preview")
    assert ended.value.code == 70
