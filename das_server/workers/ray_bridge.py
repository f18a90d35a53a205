# SPDX-License-Identifier: GPL-3.0-or-later
"""Between a server and its workers in a Ray cluster: a process of its own, since Ray ends those that lose the cluster.

python -m das_server.workers.ray_bridge --address … --parent PID --options JSON   (started by `das_server.workers.ray`)
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import zmq

from das_server.workers import ray_cluster, wire
from das_server.workers.machine import die_with_parent
from das_server.workers.patience import Patience
from das_server.workers.ray_crew import Crew, CrewOptions

_log = logging.getLogger(__name__)

STATUS_S = 1.0
NO_CLUSTER_STATUS = 75
LINGER_MS = 1000


class Bridge:
    """Carries words between the server's socket and a `Crew`."""

    def __init__(self, address: str, routing_id: str, token: str, options: dict[str, Any]):
        self._token = token
        self._dealer = zmq.Context.instance().socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.ROUTING_ID, routing_id.encode())
        self._dealer.setsockopt(zmq.LINGER, LINGER_MS)
        self._dealer.connect(address)
        self._bell, self._bell_end = socket.socketpair()
        self._bell.setblocking(False)
        crew = CrewOptions(
            tuple(options["devices"]),
            options["model"],
            options["fewest"],
            options["most"],
            options["worker"],
            Patience(**options["patience"]),
        )
        self._crew = Crew(crew, Path(options["state"]), self._say, self._ring)

    def join(self, address: str, namespace: str) -> None:
        """Enter the cluster; a failure is told and ends the process."""
        self._say({"kind": "hello", "pid": os.getpid()})
        try:
            ray_cluster.join(address, namespace)
            self._crew.join()
        except Exception as error:  # whatever Ray raises
            _log.exception("no cluster")
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            where = f"at {address}" if address else "on this machine"
            self._say({"kind": "problem", "message": f"There is no Ray cluster {where}: {reason}"})
            self._dealer.close()
            zmq.Context.instance().term()
            os._exit(NO_CLUSTER_STATUS)

    def run(self, parent: int) -> None:
        """Until the server ends."""
        poller = zmq.Poller()
        poller.register(self._dealer, zmq.POLLIN)
        poller.register(self._bell_end, zmq.POLLIN)
        said: tuple[Any, float] = (None, 0.0)
        while os.name != "posix" or os.getppid() == parent:
            ready = dict(poller.poll(200))
            if self._bell_end.fileno() in ready:
                self._bell_end.recv(4096)
            while self._dealer in ready and (message := self._receive()) is not None:
                if message["kind"] == "stop":
                    return
                self._hear(message)
            self._crew.turn()
            status = {"workers": self._crew.statuses(), "problem": self._crew.nodes.problem}
            if status != said[0] or time.monotonic() - said[1] > STATUS_S:
                self._say({"kind": "status", **status})
                said = (status, time.monotonic())

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message.pop("kind")
        try:
            if kind == "demand":
                self._crew.set_demand(message["waiting"], message["models"])
            elif kind == "run":
                self._crew.run(message["worker"], message["order"])
            elif kind == "cancel":
                self._crew.cancel(message["job"])
            elif kind == "let_go":
                self._crew.let_go(message["job"])
        except Exception:  # a defect of ours must cost no more than this message
            _log.exception("%s cannot be done", kind)

    def _receive(self) -> dict[str, Any] | None:
        try:
            return wire.unpack(self._token, self._dealer.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return None

    def _say(self, message: dict[str, Any]) -> None:
        self._dealer.send_multipart(wire.pack(self._token, message))

    def _ring(self) -> None:
        try:
            self._bell.send(b"!")
        except BlockingIOError:  # it rings already
            return


def main(arguments: list[str] | None = None) -> None:
    """Join the cluster and carry words until the server ends."""
    parser = argparse.ArgumentParser(prog="das_server.workers.ray_bridge")
    parser.add_argument("--address", required=True)
    parser.add_argument("--routing-id", required=True)
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--options", required=True, type=json.loads)
    given = parser.parse_args(arguments)
    options = given.options
    die_with_parent(given.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    level = options["worker"]["log_level"]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s ray %(name)s: %(message)s")
    ray_cluster.close_ports(options["cluster"])
    bridge = Bridge(given.address, given.routing_id, os.environ.pop(wire.TOKEN_VARIABLE), options)
    bridge.join(options["cluster"], options["namespace"])
    bridge.run(given.parent)
    ray_cluster.leave()


if __name__ == "__main__":
    main()
