# SPDX-License-Identifier: GPL-3.0-or-later
"""How a server deals with its workers in a cluster: what they say, what is said to them.  Without Ray: handles that
hand a call to an object of this process stand for Ray's.
"""

import hashlib
import subprocess
import sys
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from das_blender_addon.errors import StorageError
from das_server.store.blobs import DISK, NODE_DISK
from das_server.workers import ray_cluster, ray_nodes
from das_server.workers.patience import Patience
from das_server.workers.ray_actor import KeptTalk
from das_server.workers.ray_crew import Crew, CrewOptions
from das_server.workers.ray_member import Member
from das_server.workers.ray_places import Place
from tests.support.jobs import job_id

JOB = {"attempt": 1, "inputs": []}


class Call:
    """A method as Ray's handles have it; an answer may get lost, before or after the call has come."""

    def __init__(self, call):
        self._call = call
        self.lost = []

    def options(self, **_):
        return self

    def remote(self, *arguments):
        answer = Future()
        lost = self.lost.pop(0) if self.lost else None
        if lost is None:
            answer.set_result(self._call(*arguments))
        else:
            answer.set_exception(lost)
        return SimpleNamespace(future=lambda: answer)


class Worker:
    """An actor whose talk and blobs are here."""

    def __init__(self):
        self.talk, self.blobs, self.told = KeptTalk("a-0"), {}, []
        self.hear = Call(lambda after, wait_s: self.talk.listen(after, 0.0))
        self.tell = Call(self._tell)
        self.fetch = Call(lambda shas: [self.blobs[sha] for sha in shas])
        self.about = Call(lambda: {"pid": 1})

    def _tell(self, message, *contents):
        self.told.append(message["kind"])
        if message["kind"] == "run" and self.talk.take_over(message["job"], message["attempt"]):
            return True
        self.talk.hear(message)
        return True

    def artefact(self, role):
        content = role.encode()
        sha = hashlib.sha256(content).hexdigest()
        self.blobs[sha] = content
        return {"role": role, "sha": sha, "size_bytes": len(content), "media": "image/png"}


@pytest.fixture
def crew(tmp_path):
    said = []
    options = CrewOptions(("cpu",), "", 0, 0, {}, Patience())
    found = Crew(options, tmp_path, said.append, lambda: None)
    found._look_s = float("inf")
    worker = Worker()
    found.members["a-0"] = Member(Place("a-0", "a", "a", False, 0, 1), worker)
    return found, worker, said


def full_disk(*_):
    raise StorageError("The server cannot write it: its disk is full.", field=DISK)


def test_result_that_finds_the_servers_disk_full_says_so_and_is_there_for_the_next_attempt(crew):
    crew, worker, said = crew
    job = job_id()
    crew.run("a-0", JOB | {"job": job})
    worker.talk.finish(worker.talk.next_order(), [worker.artefact("frame")], {})
    keep, crew._blobs.add = crew._blobs.add, full_disk
    one = crew.members["a-0"]
    turns(crew, one)
    assert [(word["kind"], word.get("field")) for word in said if word["kind"] != "progress"] == [("failed", DISK)]
    crew._blobs.add = keep
    crew.run("a-0", JOB | {"job": job, "attempt": 2})
    turns(crew, one)
    assert (said[-1]["kind"], said[-1]["attempt"]) == ("done", 2)


def test_worker_that_finds_its_own_disk_full_is_told_from_the_server_and_its_checkpoint_stays(crew):
    crew, worker, said = crew
    job = job_id()
    kept = crew.state / "checkpoints" / f"{job}.safetensors"
    for number, field in enumerate((DISK, "seed"), 1):
        crew.run("a-0", JOB | {"job": job, "attempt": number})
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(b"steps")
        worker.talk.fail(worker.talk.next_order(), StorageError("It cannot be.", field=field))
        turns(crew, crew.members["a-0"])
        assert (said[-1]["kind"], said[-1]["field"]) == ("failed", NODE_DISK if field == DISK else field)
        assert kept.exists() is (field == DISK)


def test_preview_that_finds_the_servers_disk_full_is_not_missed(crew):
    crew, worker, said = crew
    crew.run("a-0", JOB | {"job": job_id()})
    order = worker.talk.next_order()
    worker.talk.preview(order, 1, worker.artefact("preview"))
    keep, crew._blobs.add = crew._blobs.add, full_disk
    turns(crew, crew.members["a-0"])
    crew._blobs.add = keep
    worker.talk.finish(order, [worker.artefact("frame")], {})
    turns(crew, crew.members["a-0"])
    assert [word["kind"] for word in said if word["kind"] != "progress"] == ["done"]


def turns(crew, one):
    """Ask once for what is new and take it in; the handle answers at once, so asking is what ends each round."""
    asked = []
    crew._ask = asked.append
    reference = one.actor.hear.remote(one.after, 0.0)
    crew._await(reference, crew._heard, one)
    crew.turn()
    assert asked == [one]
    del crew._ask


def out_of_reach():
    exceptions = pytest.importorskip("ray.exceptions", reason="its errors are Ray's")
    return exceptions.ActorUnavailableError("The actor is temporarily unavailable", None)


def test_order_and_cancel_that_got_lost_are_said_again(crew):
    crew, worker, _ = crew
    one, job = crew.members["a-0"], job_id()
    worker.tell.lost = [out_of_reach(), out_of_reach(), None]
    crew.run("a-0", JOB | {"job": job})
    crew.turn()
    crew.cancel(job)
    crew.turn()
    assert worker.told == [] and one.job == job
    crew._say_again(one)
    crew.turn()
    assert worker.told == ["run", "cancel"] and one.unheard == []


def test_order_that_is_no_longer_wanted_is_not_said_again(crew):
    crew, worker, _ = crew
    one = crew.members["a-0"]
    worker.tell.lost = [out_of_reach()]
    crew.run("a-0", JOB | {"job": job_id()})
    crew.turn()
    one.end_order()
    crew._say_again(one)
    assert worker.told == []


def test_order_that_got_lost_starts_no_second_question_what_is_new(crew):
    crew, worker, _ = crew
    one = crew.members["a-0"]
    one.ask_again_s = float("inf")  # a question is under way
    worker.tell.lost = [out_of_reach()]
    crew.run("a-0", JOB | {"job": job_id()})
    crew.turn()
    assert one.ask_again_s == float("inf")
    worker.hear.lost = [out_of_reach()]
    crew._await(worker.hear.remote(0, 0.0), crew._heard, one)
    crew.turn()
    assert one.ask_again_s < float("inf")


def test_words_that_come_twice_are_taken_in_once(crew):
    crew, worker, said = crew
    one = crew.members["a-0"]
    crew.run("a-0", JOB | {"job": job_id()})
    worker.talk.retry(worker.talk.next_order(), "memory", "Once more.")
    late = worker.hear.remote(0, 0.0)
    turns(crew, one)
    crew._ask = lambda one: None
    crew._await(late, crew._heard, one)
    crew.turn()
    assert [word["kind"] for word in said].count("retry") == 1


def test_node_that_has_not_answered_yet_is_not_asked_again(monkeypatch):
    asked, said = [], []
    node = {"NodeID": "n", "NodeManagerHostname": "slow"}
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [node])  # Ray's words
    monkeypatch.setattr(ray_cluster, "ask_node", asked.append)
    monkeypatch.setattr(ray_nodes, "ANSWER_S", 0.0)
    nodes = ray_nodes.Nodes(lambda reference, call, *about: said.append((call, about)))
    assert nodes.look() == nodes.look() == {"n"}
    assert asked == ["n"]
    failed = Future()
    failed.set_exception(OSError("no disk"))
    ((call, about),) = said
    call(*about, failed)
    assert nodes.problem == "The node slow cannot be used: no disk"
    nodes.look()
    assert asked == ["n", "n"]


DISK_OF_A_NODE = """
import os, resource, sys
from das_server.workers.ray_actor import WorkerActor
actor = WorkerActor({"name": "a-0"}, {"log_level": "ERROR", "stall_timeout_s": 9.0, "device": "cpu", "threads": 1,
                                      "profile": "auto"})
print(os.environ.get("OMP_WAIT_POLICY"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
order = {"kind": "run", "job": "j", "attempt": 1, "is_there": False, "has_checkpoint": False}
actor.tell(order, b"x" * 5000)
print(*[(word["kind"], word["field"]) for _, word in actor._talk.listen(0, 0.0)[1] if word["kind"] == "failed"])
print(actor._talk.held())
actor._folder.close()
sys.stdout.flush()
os._exit(0)
"""


def test_worker_whose_disk_is_full_says_so_and_its_threads_sleep():
    done = subprocess.run([sys.executable, "-c", DISK_OF_A_NODE], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["PASSIVE", "('failed', 'disk')", "('', 0)"], done.stderr
