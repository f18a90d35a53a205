# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server status`` and ``drain``: what a running server does, as a table or as JSON, once or live; and its end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from das_blender_addon.errors import ServerUnreachable
from das_blender_addon.protocol import messages
from das_server.listening import client_config

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

WATCH_S = 2.0
WAIT_S = 0.5
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


def printable(text: str) -> str:
    """``text`` in one line, without what controls a terminal: others may have written it."""
    return "".join(one if one.isprintable() else "·" for one in " ".join(text.split()))


def _cell(value: Any) -> str:
    words = printable("" if value is None else str(value))
    return words if len(words) <= MOST_IN_A_CELL else words[: MOST_IN_A_CELL - 1] + "…"


def duration(seconds: float | None) -> str:
    """``95`` → "1:35", ``None`` → ""."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _about(report: messages.StatusReport, address: str) -> str:
    totals = report.totals
    counts = ", ".join(f"{totals[name]} {name}" for name in ("running", "waiting", "unfetched") if totals.get(name))
    about = [f"server {report.server_id[:8]} at {address}", f"up {duration(report.uptime_s)}", counts]
    about += ["it is being drained" if totals.get("draining") else ""]
    return " · ".join(_cell(word) for word in about if word)


def words_of_report(report: messages.StatusReport, address: str, now: float) -> list[str]:
    """What ``das-server status`` prints into a file or a pipe."""
    lines = [_about(report, address), "", *table(_WORKER_HEADS, [_row_of_worker(one) for one in report.workers])]
    if report.jobs:
        lines += ["", *table(_JOB_HEADS, [_row_of_job(job, now) for job in report.jobs])]
    return lines


def shown_report(report: messages.StatusReport, address: str, now: float, width: int) -> Group:
    """What it shows in a terminal of ``width`` characters."""
    from rich.console import Group
    from rich.text import Text

    shown = [Text(_about(report, address), style="bold"), Text()]
    shown.append(_shown_table(_WORKER_HEADS, [_row_of_worker(one) for one in report.workers], width))
    if report.jobs:
        shown += [Text(), _shown_table(_JOB_HEADS, [_row_of_job(job, now) for job in report.jobs], width)]
    return Group(*shown)


def _shown_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    wanted = [i for i in range(len(heads)) if width >= NARROW or heads[i] not in _ONLY_IF_WIDE]
    kept = [i for i in wanted if any(row[i] for row in cells)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i in kept:
        if heads[i] in _SAYS:
            made.add_column(heads[i], overflow="fold", min_width=16)
        else:
            made.add_column(heads[i], overflow="ellipsis", no_wrap=True)
    for row in cells:
        made.add_row(*(Text(row[i], style=_STYLES.get(row[i], "") if heads[i] == "STATE" else "") for i in kept))
    return made


_WORKER_HEADS = ("WORKER", "STATE", "DEVICE", "MODEL", "JOB", "MEMORY", "STEP", "PROBLEM")
_SAYS = ("PROBLEM", "SAYS")
"""Columns that a narrow terminal breaks into lines; it cuts the others."""

NARROW = 100
_ONLY_IF_WIDE = ("DEVICE", "MODEL", "MEMORY", "STEP", "KIND", "AGE")
"""Columns that a terminal of fewer characters leaves out."""

_STYLES = {"RUNNING": "green", "busy": "green", "FAILED": "red", "broken": "red", "CANCELLED": "dim", "DONE": "dim"}


def _row_of_worker(one: dict[str, Any]) -> tuple[Any, ...]:
    return (
        one["name"],
        one["state"],
        one["device_label"] or one["device"],
        one["model"],
        one["job"][:8],
        f"{one['memory_bytes'] >> 20} MiB" if one["memory_bytes"] else "",
        f"{one['step_s']:.2f} s" if one["step_s"] else "",
        one["problem"],
    )


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
    if options.watch is not None and sys.stdout.isatty() and not options.json:
        _watch(options)
    from das_server.door.ask import ask_status

    config = client_config(options.server, state=options.state_folder)
    while True:
        try:
            report = ask_status(config)
        except ServerUnreachable as error:
            if options.watch is None:
                raise
            print(error.message, flush=True)
        else:
            if options.json:
                print(json.dumps(asdict(report), indent=None if options.watch else 2), flush=True)
            elif sys.stdout.isatty():
                from rich.console import Console

                console = Console()
                console.print(shown_report(report, config.bind, time.time(), console.width))
            else:
                print("\n".join(words_of_report(report, config.bind, time.time())), flush=True)
        if options.watch is None:
            return
        time.sleep(max(0.1, options.watch))


def _watch(options: argparse.Namespace) -> NoReturn:
    """In a terminal, in place, until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    from das_server.door.ask import ask_status

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            config = client_config(options.server, state=options.state_folder)
            try:
                shown = shown_report(ask_status(config), config.bind, time.time(), live.console.width)
            except ServerUnreachable as error:
                shown = error.message
            live.update(shown, refresh=True)
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
