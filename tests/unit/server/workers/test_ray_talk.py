# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker of a cluster keeps for a server that comes back, and what a server asks of a cluster.  Without Ray."""

import dataclasses
import importlib.util

import pytest

from das_blender_addon.errors import JobCancelled, JobError, SettingsError, StorageError
from das_server.pipeline import resume
from das_server.store.blobs import DISK, BlobStore
from das_server.workers import ray
from das_server.workers.ray_actor import KeptTalk
from das_server.workers.ray_member import Member
from das_server.workers.ray_places import Place
from das_server.workers.runner import Worker
from tests.support.jobs import job_id, job_inputs, job_spec

HAS_RAY = importlib.util.find_spec("ray") is not None


def order_of(folder, job, attempt=1):
    spec = job_spec(num_inference_steps=5)
    inputs, blobs = job_inputs(spec)
    for blob in blobs.values():
        BlobStore(folder).add(blob)
    plain = {"spec": dataclasses.asdict(spec), "inputs": [dataclasses.asdict(one) for one in inputs]}
    return {"kind": "run", "job": job, "attempt": attempt, "weights": "", **plain}


def words(talk, after=0):
    return [word for _, word in talk.listen(after, 0.0)[1]]


def test_word_is_kept_until_the_next_question_shows_that_it_has_come():
    talk = KeptTalk("here")
    talk.say("problem", message="one")
    talk.say("problem", message="two")
    assert [number for number, _ in talk.listen(0, 0.0)[1]] == [1, 2]
    assert [number for number, _ in talk.listen(0, 0.0)[1]] == [1, 2]  # the first answer was lost
    assert [word["message"] for word in words(talk, 1)] == ["two"]
    assert words(talk, 2) == []


def test_result_is_handed_over_as_a_later_attempt_until_the_next_job(tmp_path):
    talk, job = KeptTalk("here"), job_id()
    talk.hear({"kind": "run", "job": job, "attempt": 1})
    order = talk.next_order()
    assert talk.held() == (job, 1)
    talk.finish(order, [], {"seed": 1})
    assert words(talk)[-1]["kind"] == "done" and words(talk, 99) == []
    assert talk.held() == (job, 1) and talk.take_over(job, 3)
    assert [(word["kind"], word["attempt"]) for word in words(talk)] == [("done", 3)]
    talk.hear({"kind": "run", "job": job_id(), "attempt": 1})
    assert talk.held()[0] != job and not talk.take_over(job, 4)


def test_job_under_way_goes_on_as_a_later_attempt():
    talk, job = KeptTalk("here"), job_id()
    talk.hear({"kind": "run", "job": job, "attempt": 1})
    order = talk.next_order()
    talk.progress(order, {"stage": "denoising", "step": 1, "of": 9, "elapsed_s": 0.0})
    assert talk.take_over(job, 2)
    talk.progress(order, {"stage": "denoising", "step": 2, "of": 9, "elapsed_s": 0.0})
    assert [(word["fields"]["step"], word["attempt"]) for word in words(talk)[-2:]] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (JobCancelled("The job was cancelled."), False),
        (StorageError("The disk is full.", field=DISK), False),
        (StorageError("An input is damaged."), True),
        (JobError("The job failed."), True),
    ],
)
def test_failure_is_kept_unless_another_attempt_may_succeed(error, is_kept):
    talk, job = KeptTalk("here"), job_id()
    talk.hear({"kind": "run", "job": job, "attempt": 1})
    talk.fail(talk.next_order(), error)
    assert talk.held() == ((job, 1) if is_kept else ("", 0)) and talk.take_over(job, 2) == is_kept


def test_checkpoint_travels_as_bytes_and_another_node_goes_on_there_with_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setitem(resume.Checkpoint.__init__.__kwdefaults__, "every_s", 0.0)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def node(name):
        (tmp_path / name).mkdir()
        talk = KeptTalk(name)
        return tmp_path / name, talk, Worker(talk, tmp_path / name, device="cpu", threads=1, profile="auto")

    def run(folder, talk, worker, order):
        talk.hear(order)
        worker._run(talk.next_order())
        return words(talk)

    job = job_id()
    folder, talk, worker = node("first")
    said = run(folder, talk, worker, order_of(folder, job))
    checkpoints = [word for word in said if word["kind"] == "checkpoint"]
    assert len(checkpoints) == 1, "older ones are dropped"
    folder, talk, worker = node("second")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"{job}.safetensors").write_bytes(checkpoints[0]["content"])
    again = run(folder, talk, worker, order_of(folder, job, 2))
    steps = [word["fields"]["step"] for word in again if word["kind"] == "progress"
             and word["fields"]["stage"] == "denoising"]  # fmt: skip
    assert not {1, 2, 3, 4} & set(steps)
    assert [one["sha"] for one in again[-1]["artefacts"]] == [one["sha"] for one in said[-1]["artefacts"]]


def test_member_that_holds_a_job_of_before_says_nothing_of_it_before_it_is_claimed():
    one = Member(Place("a-0", "a", "a", False, 0, 1), None)
    one.take_order("j", 1)
    one.is_held = True
    word = {"kind": "progress", "job": "j", "attempt": 1, "fields": {"stage": "denoising"}}
    assert not one.hear_word(word)
    one.take_order("j", 2)
    assert one.hear_word(word | {"attempt": 2}) and not one.hear_word(word)


@pytest.mark.parametrize("workers", ["", "rays", "ray://", "ray://head", "ray://head:6379/x", "grid"])
def test_workers_that_are_none_are_refused(workers):
    with pytest.raises(SettingsError, match="must be local, ray or ray://HOST:PORT"):
        ray.cluster_address(workers)


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_cluster_without_ray_is_refused_with_what_to_install():
    with pytest.raises(SettingsError, match=r"pip install 'diffusion-as-shader\[cluster\]'"):
        ray.cluster_address("ray")


def test_cluster_without_a_token_is_refused_unless_it_is_this_machine(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert ray.cluster_address("ray://10.0.0.5:6379") == "10.0.0.5:6379"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SettingsError, match="RAY_AUTH_MODE=token"):
        ray.cluster_address("ray://10.0.0.5:6379")
    assert ray.cluster_address("ray://127.0.0.1:6379") == "127.0.0.1:6379"
    assert ray.cluster_address("ray") == ""


def test_gpus_of_a_cluster_are_rays_to_choose(tmp_path):
    with pytest.raises(SettingsError, match="in a cluster it is auto or cpu"):
        ray.RayWorkers(None, tmp_path, devices=("cuda:0",))
