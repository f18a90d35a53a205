# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server says to whoever talks with its cluster, when that has changed.  Without Ray."""

import pytest
import zmq

from das_server.workers import wire
from das_server.workers.base import WorkerStatus, WorkLost, WorkOrder
from das_server.workers.ray import RayWorkers
from tests.support.jobs import job_inputs, job_spec

WAIT_MS = 60_000


class Bridge:
    """Stands where a process would that talks with Ray."""

    def __init__(self, context, workers):
        self._token, self._workers = workers._token, workers
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, workers._routing_id)
        self._socket.connect(workers._bound)

    def tell(self, *told):
        """Say how the workers stand, until the server has heard it."""
        one = [vars(status) for status in told]
        self._socket.send_multipart(wire.pack(self._token, {"kind": "status", "workers": one, "problem": ""}))
        assert self._workers._socket.poll(WAIT_MS)
        self._workers._drain()

    def heard(self, count):
        """(kind, job) of all that the server has said, which is so much, or more."""
        found = []
        while self._socket.poll(WAIT_MS if len(found) < count else 200):
            message = wire.unpack(self._token, self._socket.recv_multipart())
            found.append((message["kind"], message.get("job") or message["order"]["job"]))
        return found

    def close(self):
        self._socket.close(linger=0)


@pytest.fixture
def workers(tmp_path):
    with zmq.Context() as context:
        found = RayWorkers(context, tmp_path)
        bridges = []

        def bridge():
            if bridges:
                bridges[-1].close()
                found._generation += 1
                found._is_met = False
            bridges.append(Bridge(context, found))
            return bridges[-1]

        yield found, bridge
        bridges[-1].close()
        found.stop()


def order_of(job):
    spec = job_spec()
    return WorkOrder(job, 1, spec, tuple(job_inputs(spec)[0]))


def test_last_result_that_a_worker_keeps_is_let_go_when_the_cluster_is_met_again(workers):
    workers, bridge = workers
    bridge().tell(WorkerStatus("a", "busy", "cpu", job="held"), WorkerStatus("b", "ready", "cpu"))
    workers.run("b", order_of("running"))
    again = bridge()
    again.tell(
        WorkerStatus("a", "busy", "cpu", job="held"),  # of before this server, to be claimed yet
        WorkerStatus("b", "busy", "cpu", job="running"),
        WorkerStatus("c", "busy", "cpu", job="over"),
    )
    assert again.heard(2) == [("run", "running"), ("let_go", "over")]
    assert workers.held() == {"held": "a"}


def test_cancel_while_nobody_talks_with_the_cluster_is_said_after_the_order(workers):
    workers, bridge = workers
    bridge().tell(WorkerStatus("a", "ready", "cpu"))
    workers.run("a", order_of("unwanted"))
    again = bridge()
    workers.cancel("unwanted")
    again.tell(WorkerStatus("a", "busy", "cpu", job="unwanted"))
    assert again.heard(2) == [("run", "unwanted"), ("cancel", "unwanted")]
    last = bridge()
    last.tell(WorkerStatus("a", "ready", "cpu"))
    assert last.heard(0) == [] and isinstance(workers._news[-1], WorkLost)
