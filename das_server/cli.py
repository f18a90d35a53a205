# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server``: parse, build the config, call.  An error is one sentence on stderr and its own exit status."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from das_blender_addon.errors import DasError
from das_server import __version__
from das_server.config import LOG_LEVELS, ServerConfig, build_config

SERVE_FLAGS = ("bind", "state", "model", "devices", "threads", "profile", "log_level", "keep_s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except DasError as error:
        logging.getLogger(__name__).debug("%s", error.detail or error, exc_info=True)
        print(f"das-server: {error.message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="das-server", description="The GPU server of Diffusion as Shader.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the server until it is stopped")
    serve.add_argument("--bind", metavar="ADDRESS", help=f"where to listen (default {ServerConfig.bind})")
    serve.add_argument(
        "--state", metavar="FOLDER", help="jobs and blobs (default: the platform's folder for user data)"
    )
    serve.add_argument("--model", metavar="NAME", help=f"default model, loaded at start (default {ServerConfig.model})")
    serve.add_argument("--devices", metavar="LIST", help="one worker each, such as cuda:0,cuda:1 or cpu (default auto)")
    serve.add_argument("--threads", metavar="N", help="torch threads of a worker (default: the number of cores)")
    serve.add_argument(
        "--profile", metavar="NAME", help="memory profile of the model (default auto; see das-server doctor)"
    )
    serve.add_argument("--keep-s", metavar="SECONDS", help="how long finished jobs stay on disk (default 24 hours)")
    serve.add_argument("--log-level", choices=LOG_LEVELS, help=f"(default {ServerConfig.log_level})")
    serve.add_argument("--config", metavar="FILE", type=Path, help="TOML file with the same names")
    serve.set_defaults(command=_serve)

    status = commands.add_parser("status", help="show a running server's jobs and workers")
    status.add_argument("--server", metavar="ADDRESS", help=f"(default {ServerConfig.bind})")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(command=_status)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=lambda options: print(__version__))
    return parser


def _serve(options: argparse.Namespace) -> None:
    from das_server.endpoint import serve

    config = build_config({name: getattr(options, name) for name in SERVE_FLAGS}, file=options.config)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def say_ready(address: str) -> None:
        print(
            f"das-server {__version__} listening on {address} (model {config.model}, state {config.state})", flush=True
        )

    serve(config, on_ready=say_ready)


def _status(options: argparse.Namespace) -> None:
    from das_server.endpoint import ask_status

    config = build_config({"bind": options.server})
    report = ask_status(config.bind)
    if options.json:
        print(json.dumps(asdict(report), indent=2))
        return
    print(f"server {report.server_id[:8]} at {config.bind}, up {report.uptime_s:.0f} s")
    for worker in report.workers:
        device = worker["device_label"] or worker["device"]
        words = [worker["name"], worker["state"], device, worker["model"] and f"model {worker['model']}"]
        words += [worker["job"] and f"job {worker['job'][:8]}", worker["problem"]]
        print("  " + " · ".join(word for word in words if word))
    for job in report.jobs:
        age_s = max(0.0, time.time() - job["created_s"])
        words = [job["job"][:8], job["state"], job["model"], f"{age_s:.0f} s ago"]
        words += [
            job["state"] == "RUNNING" and job.get("stage") and f"{job['stage']} {job['step']}/{job['of']}",
            job.get("message"),
        ]
        print("  " + " · ".join(word for word in words if word))
