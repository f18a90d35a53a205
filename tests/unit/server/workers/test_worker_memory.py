# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose memory does not suffice: again with a smaller profile that frees something, told to the user.

The worker, its link, the pipeline and the error are real: PyTorch is asked for more than any machine has.
"""

import dataclasses
import logging
import queue
import re

import pytest
import torch

from das_blender_addon.errors import OutOfMemory, StorageError
from das_server.pipeline import acceleration, placement
from das_server.pipeline.group import Group, OutOfStep
from das_server.store.blobs import DISK, BlobStore
from das_server.tasks import base
from das_server.workers.link import Link
from das_server.workers.runner import Worker
from das_server.workers.stage_times import StageTimes
from tests.support.jobs import job_id, job_spec

BROKEN = "CUDA error: an illegal memory access was encountered"
"""What PyTorch says of a device that is beyond use."""


class House:
    """One worker in this process, and what it has said to its server."""

    def __init__(self, folder, profile):
        self.blobs = BlobStore(folder)
        self.link = Link("ipc://unused", "worker-0.1", "secret", parent=0)  # never started: its words stay queued
        self.worker = Worker(self.link, folder, device="cpu", threads=1, profile=profile)

    def run(self, hungry_profiles, passed_over=("problem",), job="", **options):
        """Messages about a job that runs out of memory with these profiles."""
        spec = job_spec(task="hungry", model="das-preview", prompt=" ".join(hungry_profiles), options=options)
        order = {"kind": "run", "job": job or job_id(), "attempt": 1, "spec": dataclasses.asdict(spec), "inputs": []}
        order["weights"] = ""
        self.worker._run(order)
        said = []
        while True:
            try:
                said.append(self.link._words.get_nowait())
            except queue.Empty:
                return [one for one in said if one["kind"] not in ("progress", *passed_over)]

    def pixels(self, done):
        return [self.blobs.read(one["sha"]) for one in done["artefacts"]]


@pytest.fixture
def open_house(tmp_path, monkeypatch):
    monkeypatch.setitem(base.TASK_MODULES, "hungry", "tests.support.hungry_task")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return lambda profile: House(tmp_path, profile)


def test_job_that_finds_the_disk_full_goes_on_from_its_checkpoint_next_time(open_house, monkeypatch):
    house = open_house("resident")
    for field in (DISK, None):

        def refuse(content, field=field):
            raise StorageError("It cannot be written.", field=field)

        monkeypatch.setattr(house.worker._blobs, "add", refuse)
        job = job_id()
        checkpoint = house.worker._checkpoints / f"{job}.safetensors"
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_bytes(b"some steps")
        (failed,) = house.run([], job=job)
        assert (failed["kind"], failed["code"], failed["field"]) == ("failed", "job.storage", field or "")
        assert checkpoint.exists() is (field == DISK)


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


def test_memory_that_does_not_suffice_on_one_of_several_devices_ends_the_worker(open_house, tmp_path):
    """The others wait in the middle of a step: nothing can be tried again in here."""
    worker = open_house("resident").worker
    told = OutOfStep("one clip on several devices: RuntimeError: DefaultCPUAllocator: can't allocate memory")
    assert worker._can_profile_help(told)
    worker._group = Group
    assert not worker._can_profile_help(told) and worker._is_out_of_step(told)
    assert not worker._is_out_of_step(RuntimeError(str(told)))


def test_estimator_beside_the_model_goes_before_the_profile_does(open_house, tmp_path):
    house = open_house("resident")
    (expected,) = house.run([])
    house.worker._shelf.take("dis-flow", "", "cpu", is_alone=False)
    (done,) = house.run(["resident"], once=str(tmp_path / "once"))
    assert done["kind"] == "done" and done["report"]["memory_profile"] == "resident"
    assert house.pixels(done) == house.pixels(expected) and not house.worker._shelf.let_go()
    retry, done = house.run(["resident"])  # none is left that could go
    assert retry["kind"] == "retry" and done["report"]["memory_profile"] == "drop_text_encoder"


def test_estimator_stays_beside_a_model_that_has_room_and_goes_where_it_has_none(open_house, monkeypatch):
    house = open_house("resident")
    house.run([])
    shelf, pipeline = house.worker._shelf, house.worker._pipeline
    shelf.take("dis-flow", "", "cpu", is_alone=False)
    house.run([])
    assert shelf.name == "dis-flow"
    needs = pipeline.needs()
    to_come = needs.text_encoder if pipeline.prompt_encoder.model is None else 0
    free = [needs.working + to_come]
    monkeypatch.setattr(placement.memory, "free_memory", lambda device: free[0])
    house.worker._load("das-preview")
    assert shelf.name == "dis-flow"
    free[0] -= 1
    house.worker._load("das-preview")
    assert shelf.name == ""


def test_estimator_does_not_keep_a_model_in_a_smaller_profile(open_house):
    house = open_house("resident")
    house.run([])
    house.run(["resident"])
    house.worker._shelf.take("dis-flow", "", "cpu", is_alone=False)
    house.run([])
    assert house.worker._shelf.name == ""


def test_way_back_that_fails_costs_a_load_and_no_job(open_house, monkeypatch):
    """Whoever has taken the memory meanwhile: the model is laid out by what there is."""
    house = open_house("resident")
    (expected,) = house.run([])
    house.run(["resident"])
    before = house.worker._pipeline
    monkeypatch.setattr(placement, "has_room_again", lambda pipeline, profile, short: profile == "resident")

    def full(profile):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    before.use_profile = full
    told, done = house.run([], passed_over=())
    assert (told["kind"], told["message"], done["kind"]) == ("problem", "", "done")
    assert house.worker._pipeline is not before and house.pixels(done) == house.pixels(expected)


def test_smaller_profile_is_told_and_taken_back_when_there_is_memory(open_house, monkeypatch):
    house = open_house("resident")
    (expected,) = house.run([])
    _, told, done = house.run(["resident"], passed_over=())
    assert told["kind"] == "problem" and "drop_text_encoder is used until there is more" in told["message"]
    (done,) = house.run([])
    assert done["report"]["memory_profile"] == "drop_text_encoder"
    monkeypatch.setattr(placement, "has_room_again", lambda pipeline, profile, short: profile == "resident")
    told, done = house.run([], passed_over=())
    assert (told["kind"], told["message"]) == ("problem", "")
    assert done["report"]["memory_profile"] == "resident"
    assert house.pixels(done) == house.pixels(expected)


def test_smaller_profile_is_not_told_of_any_more_once_the_model_is_loaded_anew(open_house):
    house = open_house("resident")
    house.run([])
    house.run(["resident"])
    house.worker._make_room()  # for an estimator
    told, done = house.run([], passed_over=())
    assert (told["kind"], told["message"]) == ("problem", "")
    assert done["report"]["memory_profile"] == "resident"
    assert [one["kind"] for one in house.run([], passed_over=())] == ["done"]  # nor again


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


def test_time_to_the_first_step_is_told_once_and_what_of_it_the_model_took(open_house, caplog):
    worker, times = open_house("resident").worker, StageTimes()
    tell = worker._context({"job": job_id(), "attempt": 1}, times).emit_progress
    caplog.set_level(logging.INFO)
    for stage, step in (("loading", 0), ("encoding", 0), ("denoising", 0)):
        tell(stage, step, 2)
    assert times.first_step_s == 0.0
    tell("denoising", 5, 9)  # one that goes on from a checkpoint
    first_s = times.first_step_s
    tell("denoising", 6, 9)
    assert times.first_step_s == first_s > 0.0
    said = r"its first step is done after \d+\.\d s, \d+\.\d s of it to load the model"
    assert len(re.findall(said, caplog.text)) == 1


@pytest.mark.parametrize("profile", ["cpu", "group_offload"])
def test_job_fails_at_once_where_no_smaller_profile_is_left(open_house, profile):
    (failed,) = open_house(profile).run([profile])
    assert (failed["kind"], failed["code"]) == ("failed", "job.out_of_memory")


@pytest.fixture
def exits(monkeypatch):
    """The end of the process is an exception with its status."""

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", end)


def test_worker_whose_device_is_lost_while_it_loads_a_model_ends(open_house, exits, monkeypatch):
    """Its successor has a working device; this one would fail every job."""

    def lost(*_, **__):
        raise RuntimeError(BROKEN)

    house = open_house("resident")
    monkeypatch.setattr(torch.nn.Module, "to", lost)
    with pytest.raises(SystemExit) as ended:
        house.worker._warm_up("das-preview")
    assert ended.value.code == 70


@pytest.fixture
def pick_cudnn(tmp_path, monkeypatch):
    """A function → what `pick_attention` chooses on an H100 whose cuDNN kernel agrees with the native one."""
    from diffusers.models import attention_dispatch

    real = attention_dispatch.dispatch_attention_fn

    def attend(query, key, value, backend):
        return real(query, key, value, backend=attention_dispatch.AttentionBackendName.NATIVE)

    h100 = acceleration.DeviceDescription("cuda", "H100", (9, 0), True)
    monkeypatch.setattr(acceleration, "describe_device", lambda device: h100)
    shape = {"heads": 2, "head_dim": 16, "text_rows": 10, "device": torch.device("cpu"), "dtype": torch.bfloat16}

    def pick():
        with monkeypatch.context() as patch:
            patch.setattr(attention_dispatch, "dispatch_attention_fn", attend)
            return acceleration.pick_attention("auto", **shape, kernel_notes=tmp_path / "kernel_notes")

    return pick


def test_kernel_under_which_a_job_breaks_the_device_is_not_used_again(open_house, exits, pick_cudnn, tmp_path, caplog):
    """The job's next attempt, in the next process, does without it."""
    house = open_house("resident")
    house.worker._load("das-preview").acceleration = pick_cudnn()
    assert house.worker._pipeline.acceleration.attention_backend == "cudnn"
    with pytest.raises(SystemExit) as ended:
        house.run(["resident"], words=BROKEN)
    assert ended.value.code == 70
    (note,) = (tmp_path / "kernel_notes").iterdir()
    assert BROKEN in note.read_text() and f"remove {note}" in caplog.text
    chosen = pick_cudnn()
    assert chosen.attention_backend == "native" and f"cudnn broke H100 before; remove {note}" in chosen.reason


def test_no_kernel_is_blamed_for_a_device_that_breaks_under_the_native_one(open_house, exits, pick_cudnn, tmp_path):
    house = open_house("resident")
    chosen = dataclasses.replace(pick_cudnn(), attention_backend="native")  # as after a kernel that was left out
    house.worker._load("das-preview").acceleration = chosen
    with pytest.raises(SystemExit):
        house.run(["resident"], words=BROKEN)
    assert not (tmp_path / "kernel_notes").exists()


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic(…)`",
        "CUDA error: no kernel image is available for execution on the device",
    ],
)
def test_kernel_that_was_never_begun_costs_the_job_only(open_house, exits, pick_cudnn, tmp_path, words):
    house = open_house("resident")
    house.worker._load("das-preview").acceleration = pick_cudnn()
    (failed,) = house.run(["resident"], words=words)
    assert (failed["kind"], failed["code"]) == ("failed", "job") and words in failed["message"]
    assert not (tmp_path / "kernel_notes").exists()
