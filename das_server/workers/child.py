# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process of this machine: the main thread runs jobs, another owns the socket and keeps the heart beating.

python -m das_server.workers.child --address … --parent PID …        (started by `das_server.workers.local` only)
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from das_server.workers import compiled, wire
from das_server.workers.companions import Companions
from das_server.workers.link import Link
from das_server.workers.machine import die_with_parent, end_as_asked, import_all
from das_server.workers.runner import Worker


def wait_as_spare(*, compiler: bool) -> str:
    """Import what a job needs, then wait for the routing id as which the process goes on; without one it ends."""
    import_all(compiler=compiler)
    routing_id = sys.stdin.readline().strip()
    if not routing_id:
        os._exit(0)
    return routing_id


def keep_kernels(folder: Path) -> None:
    """Have what the compiler makes kept in ``folder`` between starts, unless somebody has named another one."""
    if os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder)) == str(folder):
        compiled.prune(folder)


def end_soon(link: Link) -> None:
    """Somebody asks this process to end: it does, now, or after the next step and its checkpoint."""
    link.ends.set()
    if not link.has_job:
        end_as_asked()


def passed_on(options: argparse.Namespace) -> list[str]:
    """What the worker's other processes are told."""
    arguments = ["--state", str(options.state), "--threads", str(options.threads), "--profile", options.profile]
    arguments += ["--attention-backend", options.attention_backend, "--log-level", options.log_level]
    return [*arguments, *(["--compile"] if options.compile else [])]


def main(arguments: list[str] | None = None) -> None:
    """Connect, then run jobs until the server ends."""
    parser = argparse.ArgumentParser(prog="das_server.workers.child")
    parser.add_argument("--address", required=True)
    parser.add_argument("--routing-id", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--attention-backend", required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--speed", default="exact")
    parser.add_argument("--spare", action="store_true")
    parser.add_argument("--parent", required=True, type=int)
    parser.add_argument("--log-level", required=True)
    options = parser.parse_args(arguments)

    if options.compile:
        keep_kernels(options.state.absolute() / compiled.FOLDER)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name = options.routing_id.partition(".")[0]
    logging.basicConfig(level=options.log_level, format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s")
    routing_id = wait_as_spare(compiler=options.compile) if options.spare else options.routing_id
    link = Link(options.address, routing_id, os.environ[wire.TOKEN_VARIABLE], parent=options.parent)
    devices = options.device.split("+")
    folder = options.state / "groups" / name
    companions = Companions(devices, passed_on(options), folder) if len(devices) > 1 else None
    signal.signal(signal.SIGTERM, lambda *_: end_soon(link))
    link.start()
    Worker(
        link,
        options.state,
        device=devices[0],
        threads=options.threads,
        profile=options.profile,
        attention_backend=options.attention_backend,
        compile_blocks=options.compile,
        float8=options.float8,
        speed=options.speed,
        companions=companions,
    ).run_forever()


if __name__ == "__main__":
    main()
