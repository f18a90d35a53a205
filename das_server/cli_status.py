# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server status`` and ``drain``: what a running server does, as a table or as JSON, once or live; and its end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from das_blender_addon.errors import ServerUnreachable
from das_blender_addon.protocol import messages
from das_server.listening import client_config

WATCH_S = 2.0
WAIT_S = 0.5
CLEAR = "\x1b[H\x1b[J"
"""Moves a terminal to its top left corner and clears the rest."""

MOST_IN_A_CELL = 60


def add_status_parser(status: argparse.ArgumentParser) -> None:
    """The flags of ``das-server status``."""
    add_server_flag(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument(
        "--watch", type=float, nargs="?", const=WATCH_S, metavar="SECONDS", help="again and again, until Ctrl-C"
    )
    status.set_defaults(command=_status)


def add_drain_parser(drain: argparse.ArgumentParser) -> None:
    """The flags of ``das-server drain``."""
    add_server_flag(drain)
    drain.add_argument("--within", type=float, metavar="SECONDS", help="break off what takes longer, at a checkpoint")
    drain.add_argument("--no-wait", action="store_true", help="do not wait for the end of the server")
    drain.set_defaults(command=_drain)


def add_server_flag(parser: argparse.ArgumentParser) -> None:
    """``--server`` and ``--state-folder``, for every command that asks one."""
    parser.add_argument(
        "--server", metavar="ADDRESS", help="(default DAS_SERVER, then the one that runs with the state folder)"
    )
    parser.add_argument("--state-folder", metavar="FOLDER", help="of a server on this machine, its --state")


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table; columns in which nothing stands are left out."""
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [i for i in range(len(heads)) if any(row[i] for row in cells)]
    widths = [max(len(heads[i]), *(len(row[i]) for row in cells)) for i in kept]
    lines = [[heads[i] for i in kept], *([row[i] for i in kept] for row in cells)]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cell(value: Any) -> str:
    words = "" if value is None else " ".join(str(value).split())
    return words if len(words) <= MOST_IN_A_CELL else words[: MOST_IN_A_CELL - 1] + "…"


def duration(seconds: float | None) -> str:
    """``95`` → "1:35", ``None`` → ""."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def words_of_report(report: messages.StatusReport, address: str, now: float) -> list[str]:
    """What ``das-server status`` prints."""
    totals = report.totals
    counts = ", ".join(f"{totals[name]} {name}" for name in ("running", "waiting", "unfetched") if totals.get(name))
    about = [f"server {report.server_id[:8]} at {address}", f"up {duration(report.uptime_s)}", counts]
    about += ["it is being drained" if totals.get("draining") else ""]
    lines = [" · ".join(word for word in about if word), ""]
    lines += table(
        ("WORKER", "STATE", "DEVICE", "MODEL", "JOB", "MEMORY", "STEP", "PROBLEM"),
        [
            (
                one["name"],
                one["state"],
                one["device_label"] or one["device"],
                one["model"],
                one["job"][:8],
                f"{one['memory_bytes'] >> 20} MiB" if one["memory_bytes"] else "",
                f"{one['step_s']:.2f} s" if one["step_s"] else "",
                one["problem"],
            )
            for one in report.workers
        ],
    )
    if report.jobs:
        lines += ["", *table(_JOB_HEADS, [_row_of_job(job, now) for job in report.jobs])]
    return lines


_JOB_HEADS = ("JOB", "STATE", "PLACE", "ETA", "DONE", "KIND", "MODEL", "AGE", "SAYS")


def _row_of_job(job: dict[str, Any], now: float) -> tuple[Any, ...]:
    waits, runs = job["state"] == "QUEUED", job["state"] == "RUNNING"
    return (
        job["job"][:8],
        job["state"],
        job["queue_position"] if waits else "",
        duration(job.get("eta_s")) if waits or runs else "",
        f"{job['stage']} {job['step']}/{job['of']}" if runs and job.get("stage") else "",
        job.get("priority", ""),
        job["model"],
        duration(now - job["created_s"]),
        job.get("message"),
    )


def _status(options: argparse.Namespace) -> None:
    from das_server.door.ask import ask_status

    config = client_config(options.server, state=options.state_folder)
    while True:
        try:
            report = ask_status(config)
        except ServerUnreachable as error:
            if options.watch is None:
                raise
            print(f"{CLEAR if sys.stdout.isatty() else ''}{error.message}", flush=True)
        else:
            if options.json:
                print(json.dumps(asdict(report), indent=None if options.watch else 2), flush=True)
            else:
                lines = words_of_report(report, config.bind, time.time())
                clear = CLEAR if options.watch is not None and sys.stdout.isatty() else ""
                print(clear + "\n".join(lines), flush=True)
        if options.watch is None:
            return
        time.sleep(max(0.1, options.watch))


def _drain(options: argparse.Namespace) -> None:
    from das_server.door.ask import asker_for

    config = client_config(options.server, state=options.state_folder)
    with asker_for(config) as asker:
        within = {} if options.within is None else {"within_s": options.within}
        answer = asker.ask(messages.Drain(0, **within))
        print(f"The server ends: {_jobs(answer.running, 'run')}, {_jobs(answer.waiting, 'wait')}.", flush=True)
        if options.no_wait:
            return
        try:
            while True:  # until nobody answers, or another server does
                time.sleep(WAIT_S)
                if not asker.ask(messages.Status(0)).totals.get("draining"):
                    break
        except ServerUnreachable:
            pass
    print("It has ended.")


def _jobs(number: int, verb: str) -> str:
    return f"{number} job {verb}s" if number == 1 else f"{number} jobs {verb}"
