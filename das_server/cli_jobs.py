# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server jobs``: list, show, cancel and requeue the jobs of a running server."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from das_blender_addon.errors import DasError, JobRejected
from das_blender_addon.protocol import messages
from das_server.cli_status import add_server_flag, printable
from das_server.listening import client_config

if TYPE_CHECKING:
    from das_server.door.ask import Asker

LAST_S = 253_402_300_799.0
"""The end of the year 9999, after which nothing is shown, Unix time."""

STATES = ("QUEUED", "RUNNING", "DONE", "FAILED", "CANCELLED")


def add_jobs_parser(jobs: argparse.ArgumentParser) -> None:
    """The actions of ``das-server jobs``."""
    actions = jobs.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="jobs, newest first")
    listing.add_argument("--state", choices=STATES, action="append", default=[], help="only jobs that are in it")
    listing.add_argument("--most", type=int, default=100, metavar="N", help="(default %(default)s)")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="one job and its events")
    show.set_defaults(command=_show)
    cancel = actions.add_parser("cancel", help="cancel jobs, whoever wants them")
    cancel.set_defaults(command=_cancel)
    requeue = actions.add_parser("requeue", help="make jobs once more that failed or were cancelled")
    requeue.add_argument("--failed", action="store_true", help="all that failed")
    requeue.set_defaults(command=_requeue)
    for action, count in ((show, None), (cancel, "+"), (requeue, "*")):
        action.add_argument("job", nargs=count, help="a job's id, or its first characters")
    for action in (listing, show, cancel, requeue):
        add_server_flag(action)
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON")


def words_of_job(job: dict[str, Any]) -> str:
    """One line for people."""
    words = [job["job"][:8], job["state"], job["model"], f"{max(0.0, time.time() - job['created_s']):.0f} s ago"]
    words += [
        job["state"] == "RUNNING" and job.get("stage") and f"{job['stage']} {job['step']}/{job['of']}",
        job.get("message"),
    ]
    return " · ".join(printable(str(word)) for word in words if word)


def _list(options: argparse.Namespace) -> None:
    with _asker(options) as asker:
        jobs = list(asker.jobs(options.state, most=max(1, options.most)))
    if options.json:
        print(json.dumps(jobs, indent=2))
        return
    for job in jobs:
        print(words_of_job(job))


def _show(options: argparse.Namespace) -> None:
    with _asker(options) as asker:
        job = _find(asker, options.job)
        events = asker.events(job["job"])
    if options.json:
        print(json.dumps({"job": job, "events": [vars(event) for event in events]}, indent=2))
        return
    for name, value in job.items():
        print(printable(f"{name}: {value}"))
    for event in events:
        fields = {name: value for name, value in event.fields.items() if name not in ("report", "artefacts")}
        about = ", ".join(f"{name} {value}" for name, value in fields.items())
        when = time.strftime("%F %T", time.localtime(min(event.time_s, LAST_S)))
        print(f"{event.seq:5} {when} {printable(f'{event.kind} {about}')}")


def _cancel(options: argparse.Namespace) -> None:
    with _asker(options) as asker:
        for prefix in options.job:
            job = _find(asker, prefix)["job"]
            answer = asker.ask(messages.Cancel(0, job, everybody=True))
            print(f"{job} is {answer.state}" + (", nothing to cancel" if answer.state in ("DONE", "FAILED") else ""))


def _requeue(options: argparse.Namespace) -> int:
    if bool(options.job) == options.failed:
        raise JobRejected("Name jobs, or give --failed, not both.", field="job")
    status = 0
    with _asker(options) as asker:
        found = list(asker.jobs(["FAILED"])) if options.failed else [_find(asker, prefix) for prefix in options.job]
        for job in reversed(found):  # in the order in which they came
            try:
                run = asker.ask(messages.Requeue(0, job["job"])).run
                print(f"{job['job']} waits again, as {run}")
            except JobRejected as error:
                if not options.failed:
                    raise
                print(f"{job['job']} does not: {error.message}")
                status = DasError.exit_code
    return status


def _asker(options: argparse.Namespace) -> Asker:
    from das_server.door.ask import asker_for

    return asker_for(client_config(options.server, state=options.state_folder))


def _find(asker: Asker, prefix: str) -> dict[str, Any]:
    if not prefix.strip():  # such as a variable that is not set: the only job would be the one
        raise JobRejected("A job is named by its id or its first characters; see das-server jobs list.", field="job")
    found = list(asker.jobs(prefix=prefix.lower(), most=2))
    if len(found) != 1:
        what = "no job whose id begins" if not found else "more than one job whose id begins"
        raise JobRejected(f"The server has {what} with {prefix!r}; see das-server jobs list.", field="job")
    return found[0]
