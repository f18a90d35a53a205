# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server`` that notes how long its loop takes for each request, for `bench_server.py`.

``python -m tests.bench.timed_server serve …`` writes, when it ends, the file that BENCH_TIMES names: name → [when it
began (of the system's monotonic clock), wall time, processor time], seconds, each.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from das_server.cli import main
from das_server.door import server
from das_server.door.endpoint import Endpoint

NOTED: dict[str, list[tuple[float, float, float]]] = {"handlers": [], "turns": []}


def timed(name: str, call: Any) -> Any:
    """The same, noted."""

    @functools.wraps(call)
    def noted(*arguments: Any, **more: Any) -> Any:
        began_s, used_s = time.perf_counter(), time.thread_time()
        try:
            return call(*arguments, **more)
        finally:
            NOTED[name].append((began_s, time.perf_counter() - began_s, time.thread_time() - used_s))

    return noted


class TimedEndpoint(Endpoint):
    """Its handlers: a request, and the end of what another thread did for one."""

    _answer = timed("handlers", Endpoint._answer)

    def _do_beside(self, who, message, work, go_on, **more):
        super()._do_beside(who, message, work, timed("handlers", go_on), **more)


class TimedPoller(zmq.Poller):
    """Of the loop: a turn is from one look at the sockets to the next."""

    _since: tuple[float, float] | None = None

    def poll(self, timeout=None):
        if self._since is not None:
            wall_s, used_s = time.perf_counter() - self._since[0], time.thread_time() - self._since[1]
            NOTED["turns"].append((self._since[0], wall_s, used_s))
        found = super().poll(timeout)
        self._since = time.perf_counter(), time.thread_time()
        return found


if __name__ == "__main__":
    server.Endpoint = TimedEndpoint
    server.zmq.Poller = TimedPoller
    status = main()
    Path(os.environ["BENCH_TIMES"]).write_text(json.dumps(NOTED))
    sys.exit(status)
