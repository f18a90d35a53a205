# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that wait to take a worker's place: who gets one, and that none stays."""

import subprocess
import sys
import time

import pytest
import zmq

from das_server.workers.local import LocalWorkers
from das_server.workers.spares import ROOM_BYTES, SHORT_BYTES, Spares
from tests.support.wire import kill, wait_for_death

ECHO = "import sys; print(sys.stdin.readline(), end='')"
WORKER = "worker-0"
WAIT_S = 180.0
"""A worker reads its libraries first, on a machine that does much else."""


class Machine:
    """Cheap processes in the place of spares, and as much free memory as a test likes."""

    def __init__(self, **options):
        self.started: list[subprocess.Popen] = []
        self.free_bytes = ROOM_BYTES
        self.spares = Spares(self._start, after_s=0.0, free_bytes=lambda: self.free_bytes, **options)

    def _start(self, name: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.started.append(subprocess.Popen([sys.executable, "-c", ECHO], **pipes))
        return self.started[-1]


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.spares.stop()
    for process in machine.started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_spare_is_for_a_worker_that_works_and_goes_on_under_its_name(machine):
    machine.spares.look_after([])
    assert machine.spares.take(WORKER, "worker-0.2") is None
    machine.spares.look_after([WORKER])
    machine.spares.look_after([WORKER])
    assert len(machine.started) == 1
    taken = machine.spares.take(WORKER, "worker-0.2")
    assert taken is machine.started[0] and taken.stdout.read() == b"worker-0.2\n"
    assert machine.spares.take(WORKER, "worker-0.3") is None


def test_no_spare_where_memory_is_short_and_one_that_waits_ends(machine):
    machine.free_bytes = ROOM_BYTES - 1
    machine.spares.look_after([WORKER])
    assert not machine.started
    machine.free_bytes = ROOM_BYTES
    machine.spares.look_after([WORKER])
    machine.free_bytes = SHORT_BYTES
    machine.spares.look_after([WORKER])
    assert machine.started[0].poll() is None
    machine.free_bytes = SHORT_BYTES - 1
    machine.spares.look_after([WORKER])
    assert machine.started[0].poll() is not None and not machine.spares.pids()


def test_spare_that_ended_is_given_to_nobody_nor_replaced_at_once(machine):
    machine.spares.look_after([WORKER])
    machine.started[0].kill()
    machine.started[0].wait()
    assert machine.spares.take(WORKER, "worker-0.2") is None
    machine.spares.look_after([WORKER])
    machine.started[1].kill()
    machine.started[1].wait()
    machine.spares.look_after([WORKER])
    assert len(machine.started) == 2 and not machine.spares.pids()


def test_spare_that_cannot_be_started_costs_nothing(tmp_path):
    def refuse(name: str) -> subprocess.Popen:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    spares = Spares(refuse, after_s=0.0, free_bytes=lambda: ROOM_BYTES)
    spares.look_after([WORKER])
    assert not spares.pids()


def test_spare_takes_the_place_of_a_worker_that_is_killed_and_ends_with_the_server(tmp_path):
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",), model="das-preview", threads=1, spare_after_s=0.0)
    workers._spares._free_bytes = lambda: ROOM_BYTES  # whatever else this machine does

    def wait_for(pid_of, *but: int) -> int:
        """What ``pid_of`` gives when it is the number of a process, and none of those."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            workers.news()
            if (pid := pid_of()) and pid not in but:
                return pid
            workers.socket.poll(100)
        raise AssertionError(f"there is no other than {but}: {workers.status()}, {workers._spares.pids()}")

    def ready() -> int:
        (status,) = workers.status()
        return status.pid if status.state == "ready" and status.model else 0

    def waiting() -> int:
        return workers._spares.pids().get(WORKER, 0)

    try:
        workers.start()
        first = wait_for(ready)
        spare = wait_for(waiting, first)
        kill(first)
        assert wait_for(ready, first) == spare
        last = wait_for(waiting, spare)
        assert last not in (first, spare)
    finally:
        workers.stop()
        context.term()
    assert wait_for_death(spare) and wait_for_death(last)
