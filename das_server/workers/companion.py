# SPDX-License-Identifier: GPL-3.0-or-later
"""A further process of a worker of several devices: does its part of what the first one begins, told by its stdin.

python -m das_server.workers.companion --rank … --parent PID …        (started by `das_server.workers.companions` only)
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from das_blender_addon.errors import JobCancelled
from das_server.workers.machine import die_with_parent, import_all, num_cores, set_up_torch


class Companion:
    """What it has loaded, and the clip that is being made."""

    def __init__(self, group: Any, settings: dict[str, Any]):
        self._group, self._settings = group, settings
        self._pipeline: Any = None
        self._passes: Any = None
        self.stops = threading.Event()
        """The first process wants the end of the clip, and has said so while this one computes."""

    def obey(self, order: dict[str, Any]) -> None:
        """Do one thing, with all other ranks."""
        from das_server.models.adapters import AdapterUse
        from das_server.pipeline.loading import load_pipeline
        from das_server.pipeline.randomness import deterministic_kernels

        kind = order["kind"]
        if kind == "load":
            self._pipeline = None
            self._pipeline = load_pipeline(order["model"], float8=order["float8"], **self._settings)
            if self._group.size == 2:
                self._pipeline.warm_up(1)
            self._pipeline.group = self._group
            self._group.wait()
        elif kind == "adapters":
            self._pipeline.use_adapters([AdapterUse(**one | {"path": Path(one["path"])}) for one in order["wanted"]])
        elif kind == "begin":
            self.stops.clear()
            self._passes = self._pipeline.follow(order, self.stops.is_set)
        elif kind == "step":
            latents = self._group.receive(order.pop("shapes"))["latents"]
            del order["kind"]
            with deterministic_kernels(), suppress(JobCancelled):  # then the end of the clip follows
                self._passes.take_part(latents, **order)
        elif kind == "end":
            self._passes.close()
            self._passes = None


def listen(orders: queue.SimpleQueue[dict[str, Any] | None], stops: threading.Event) -> None:
    """Put what stdin says into ``orders``, None at its end; "stop" is heard at once."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["kind"] == "stop":
            stops.set()
        else:
            orders.put(order)
    orders.put(None)


def main(arguments: list[str] | None = None) -> None:
    """Join the others, then obey until stdin ends."""
    parser = argparse.ArgumentParser(prog="das_server.workers.companion")
    for name in ("--parent", "--rank", "--size", "--threads"):
        parser.add_argument(name, required=True, type=int)
    for name in ("--meeting", "--device", "--profile", "--attention-backend", "--log-level"):
        parser.add_argument(name, required=True)
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args(arguments)

    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words = f"%(asctime)s %(levelname)s rank {options.rank} %(name)s: %(message)s"
    logging.basicConfig(level=options.log_level, format=words)
    import_all(compiler=options.compile)
    threads = options.threads or num_cores()
    device = set_up_torch(options.device, threads, compiler=options.compile)["device"]
    import torch

    from das_server.pipeline.group import Group

    settings = {"device": device, "profile": options.profile, "attention_backend": options.attention_backend}
    settings |= {"compile_blocks": options.compile, "kernel_notes": options.state / "kernel_notes"}
    group = Group(options.rank, options.size, torch.device(device), options.meeting)
    companion = Companion(group, settings)
    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(orders, companion.stops), name="orders", daemon=True).start()
    with torch.no_grad():
        while (order := orders.get()) is not None:
            try:
                companion.obey(order)
            except Exception:
                logging.getLogger(__name__).exception("a part of a clip went wrong")
                os._exit(1)
    os._exit(0)  # the threads of the process group outlive Python's end


if __name__ == "__main__":
    main()
