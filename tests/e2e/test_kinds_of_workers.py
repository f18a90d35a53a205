# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers of this machine and workers of a Ray cluster: the same tests for both, then what only a cluster can do.

One cluster of two nodes serves all tests.  Without Ray those of it are skipped.
"""

import functools
import importlib.util
import os

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobCancelled, StorageError
from das_server.workers.base import WorkFailed, WorkLost
from tests.support.server import IMPATIENT, running_server
from tests.support.wire import follow, is_alive, is_step, kill, submit, wait_for_death, whole_story
from tests.support.workers import Crowd, family, listening_addresses, local_workers, ray_workers

NEEDS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: make test-cluster"
)
JOB = {"num_inference_steps": 20, "seed": 41}
LONG = {"num_inference_steps": 100, "seed": 42, "num_frames": 25, "kept_frames": 25, "width": 192, "height": 128}
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1."""


@pytest.fixture(scope="module")
def cluster():
    from tests.support.ray_cluster import two_nodes

    with two_nodes() as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with Crowd(tmp_path_factory.mktemp("local"), local_workers) as crowd:
        yield crowd


@pytest.fixture(scope="module")
def ray(tmp_path_factory, cluster):
    in_cluster = functools.partial(ray_workers, address=cluster.address)
    with Crowd(tmp_path_factory.mktemp("ray"), in_cluster) as crowd:
        yield crowd


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=NEEDS_RAY)])
def crowd(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def expected(local):
    """The frames of `JOB`, as a process of this machine makes them."""
    order = local.order(**JOB)
    local.give(order)
    return local.pixels(local.end(order))


# ── A whole server, before others have the devices of the cluster ───────────────────────────────────────────────────


@NEEDS_RAY
def test_server_that_was_killed_finds_its_job_in_the_cluster_and_renders_no_step_twice(tmp_path, cluster):
    flags = ("--workers", f"ray://{cluster.address}", "--max-workers", "1")
    with running_server(tmp_path / "state", *flags, environment=IMPATIENT) as server:
        with DasClient(server.address, timeout_s=60) as client:
            job = submit(client, **LONG | {"num_inference_steps": 40})
            follow(client, job, until=is_step)
            worker = server.status()["workers"][0]["pid"]
            server.kill()
            server.start()
            finished = whole_story(server.address, job)
        assert finished.kinds == ["QUEUED", "STARTED", "RETRY", "STARTED", "DONE"]
        steps = [event.fields["step"] for event in finished.events if is_step(event)]
        assert steps == sorted(set(steps))  # those that were done while nobody listened are not told
        assert server.status()["workers"][0]["pid"] == worker
        kill(worker)  # it would wait for its server for minutes


# ── Both kinds ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_is_made_with_the_same_bytes_and_told_in_order(crowd, expected):
    order = crowd.order(**JOB)
    worker = crowd.give(order)
    done = crowd.end(order)
    assert crowd.pixels(done) == expected
    assert crowd.steps(order) == sorted(crowd.steps(order)) and crowd.steps(order)[-1] == 20
    assert all(crowd.blobs.size_bytes(one.artefact.sha) for one in crowd.of(order) if hasattr(one, "artefact"))
    assert done.report["model"] == "das-preview"
    again = crowd.ready(worker.name)
    assert (again.pid, again.model, again.job) == (worker.pid, "das-preview", "")


def test_job_is_cancelled_within_its_step_and_its_worker_goes_on(crowd):
    order = crowd.order(**LONG)
    worker = crowd.give(order)
    crowd.wait_for_step(order)
    crowd.workers.cancel(order.job)
    failed = crowd.end(order)
    assert isinstance(failed, WorkFailed) and failed.code == JobCancelled.code
    assert crowd.steps(order)[-1] < 100
    assert crowd.ready(worker.name).pid == worker.pid


def test_damaged_input_fails_the_job_only(crowd):
    order = crowd.order(seed=43)
    crowd.blobs.path(order.inputs[0].sha).write_bytes(b"no longer what it was")
    worker = crowd.give(order)
    failed = crowd.end(order)
    assert isinstance(failed, WorkFailed) and failed.code == StorageError.code and "damaged" in failed.message
    assert crowd.ready(worker.name).pid == worker.pid


def test_job_of_a_killed_worker_is_told_lost_and_made_again_with_the_same_bytes(crowd, expected):
    order = crowd.order(**JOB)
    worker = crowd.give(order)
    crowd.wait_for_step(order)
    kill(worker.pid)
    lost = crowd.end(order)
    assert isinstance(lost, WorkLost) and lost.begun and worker.name in lost.reason
    again = crowd.order(order.job, attempt=2, **JOB)
    successor = crowd.give(again, worker.name)
    assert successor.pid != worker.pid and successor.restarts == worker.restarts + 1
    assert crowd.pixels(crowd.end(again)) == expected


# ── A cluster ───────────────────────────────────────────────────────────────────────────────────────────────────────


@NEEDS_RAY
def test_ray_listens_on_this_machine_only(ray, cluster):
    worker = ray.ready()
    addresses = listening_addresses({os.getpid(), worker.pid, *cluster.pids})
    assert addresses and addresses <= LOOPBACK


@NEEDS_RAY
def test_job_goes_on_where_it_is_when_the_process_that_talks_with_ray_dies(ray, expected):
    order = ray.order(**JOB)
    worker = ray.give(order)
    ray.wait_for_step(order)
    ray.workers._process.kill()
    assert ray.pixels(ray.end(order)) == expected
    assert ray.ready(worker.name).pid == worker.pid


@NEEDS_RAY
def test_worker_that_has_finished_a_job_is_free_when_the_process_that_talks_with_ray_starts_anew(ray):
    order = ray.order(**JOB)
    worker = ray.give(order)
    ray.end(order)
    before = ray.workers._generation
    ray.workers._process.kill()
    ray.wait(lambda: ray.workers._generation > before and ray.workers._is_met, "another process that talks with Ray")
    assert ray.ready(worker.name).pid == worker.pid


@NEEDS_RAY
def test_server_that_starts_anew_finds_its_workers_and_makes_nothing_twice(ray, expected):
    """A job that is under way goes on as the next attempt; one that was finished meanwhile is only handed over; one
    that nobody wants any more ends."""
    under_way, finished = ray.order(**LONG), ray.order(**JOB)
    first, second = ray.give(under_way), ray.give(finished)
    ray.wait_for_step(under_way)
    seen = ray.steps(under_way)[-1]
    ray.wait_for_step(finished, 15)
    ray.die_and_start_anew()
    held = ray.wait(ray.workers.held, "the workers that live on")
    assert held == {under_way.job: first.name, finished.job: second.name}
    pids = {one.name: one.pid for one in ray.workers.status()}
    assert pids == {first.name: first.pid, second.name: second.pid} and ray.workers.free() == []
    again, handed_over = ray.order(under_way.job, attempt=2, **LONG), ray.order(finished.job, attempt=2, **JOB)
    ray.workers.run(second.name, handed_over)
    assert ray.pixels(ray.end(handed_over)) == expected
    ray.workers.run(first.name, again)
    ray.wait_for_step(again)
    assert ray.steps(again)[0] >= seen

    ray.die_and_start_anew()
    assert ray.wait(ray.workers.held, "the workers that live on") == held
    for job in held:
        ray.workers.cancel(job)
    assert [ray.ready(one.name).pid for one in (first, second)] == [first.pid, second.pid]


@NEEDS_RAY
def test_job_of_a_lost_node_is_nobodys_fault_and_is_made_by_the_other_node(ray, cluster, expected):
    order = ray.order(**JOB)
    name = next(one.name for one in ray.workers.status() if f"-{cluster.second.node_id[:6]}-" in one.name)
    worker = ray.give(order, name)
    ray.wait_for_step(order)
    cluster.kill_second_node()
    lost = ray.end(order)
    assert isinstance(lost, WorkLost) and lost.by_others and "with its node" in lost.reason
    again = ray.order(order.job, attempt=2, **JOB)
    assert ray.give(again).name != worker.name
    assert ray.pixels(ray.end(again)) == expected
    cluster.add_node()
    ray.wait(lambda: len([one for one in ray.workers.free() if one.state == "ready"]) == 2, "a worker on a new node")


@NEEDS_RAY
def test_cluster_of_one_machine_has_no_port_for_others_and_ends_with_its_server(tmp_path, cluster):
    def alone(context, state):
        return ray_workers(context, state, "", fewest=0)

    with Crowd(tmp_path, alone) as crowd:
        crowd.wait(lambda: crowd.workers._is_met, "a cluster of its own")
        pids = family({crowd.workers._process.pid})
        assert len(pids) > 3
        addresses = listening_addresses(pids)
        assert addresses and addresses <= LOOPBACK
    assert all(wait_for_death(pid) for pid in pids), [pid for pid in pids if is_alive(pid)]
