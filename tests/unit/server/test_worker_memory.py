# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose memory does not suffice: once more with the next smaller profile, told to the user, never more often.

The worker, its link, the pipeline and the error are real: PyTorch is asked for more than any machine has.
"""

import dataclasses
import queue

import pytest

from das_server.blobs import BlobStore
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

    def run(self, hungry_profiles):
        """Messages about a job that runs out of memory with these profiles."""
        spec = dataclasses.replace(job_spec(), task="hungry", model="das-preview", prompt=" ".join(hungry_profiles))
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


def test_job_is_tried_only_once_more(open_house):
    retry, failed = open_house("resident").run(["resident", "drop_text_encoder"])
    assert retry["kind"] == "retry"
    assert (failed["kind"], failed["code"]) == ("failed", "job.out_of_memory")
    assert "use fewer or smaller frames" in failed["message"] and "\n" not in failed["message"]


@pytest.mark.parametrize("profile", ["cpu", "group_offload"])
def test_job_fails_at_once_where_no_smaller_profile_is_left(open_house, profile):
    (failed,) = open_house(profile).run([profile])
    assert (failed["kind"], failed["code"]) == ("failed", "job.out_of_memory")
