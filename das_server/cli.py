# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server``: parse, build the config, call.  An error is one sentence on stderr and its own exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from das_blender_addon.errors import DasError
from das_server import __version__
from das_server.cli_jobs import add_jobs_parser
from das_server.cli_keys import add_keys_parser
from das_server.cli_status import add_drain_parser, add_status_parser
from das_server.cli_web import add_web_parser
from das_server.config import ATTENTION_BACKENDS, LOG_LEVELS, SPEEDS, ServerConfig, build_config, default_state_folder

NAME_HELP = {
    "path": "(default: the models folder itself)",
    "pull": "(default: the full model)",
    "add": "a name of models list, or one of your own for a model that you have trained or an estimator",
    "add-lora": "what jobs call it",
}
SERVE_FLAGS = (
    "bind", "state", "model", "devices", "workers", "min_workers", "max_workers", "threads", "profile",
    "attention_backend", "compile", "float8", "speed", "log_level", "spares", "keep_s", "keep_unfetched_s",
    "max_kept_bytes", "drain_s", "curve", "admins", "max_running", "metrics",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
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

    _add_serve_parser(commands.add_parser("serve", help="run the server until it is stopped"))

    add_status_parser(commands.add_parser("status", help="show a running server's jobs and workers"))

    add_drain_parser(commands.add_parser("drain", help="end a running server when its jobs are done"))

    add_jobs_parser(commands.add_parser("jobs", help="list, show, cancel and requeue a running server's jobs"))

    add_web_parser(commands.add_parser("web", help="a page about a running server, for your browser on this machine"))

    add_keys_parser(commands.add_parser("keys", help="let in users from other machines"))

    doctor = commands.add_parser("doctor", help="say which models run on this machine, how, and why")
    doctor.add_argument("--device", default="auto", help='such as cuda:0 or cpu (default "auto")')
    doctor.set_defaults(command=_doctor)

    _add_models_parser(commands.add_parser("models", help="list, check and install models"))

    train = commands.add_parser("train", help="train a model by a TOML recipe")
    train.add_argument("recipe", type=Path)
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.add_argument("--dry-run", action="store_true", help="print memory, steps and time, and train nothing")
    train.set_defaults(command=_train)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=lambda options: print(__version__))
    return parser


def _add_serve_parser(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--bind", metavar="ADDRESS", help=f"where to listen (default {ServerConfig.bind})")
    serve.add_argument(
        "--state", metavar="FOLDER", help="jobs and blobs (default: the platform's folder for user data)"
    )
    serve.add_argument("--model", metavar="NAME", help=f"default model, loaded at start (default {ServerConfig.model})")
    serve.add_argument("--devices", metavar="LIST", help="one worker each, such as cuda:0,cuda:1 or cpu (default auto)")
    serve.add_argument(
        "--workers", metavar="WHERE", help="local, ray or ray://HOST:PORT, a cluster (default local; see the guide)"
    )
    serve.add_argument("--min-workers", metavar="N", help="workers of a cluster that are kept warm (default 1)")
    serve.add_argument("--max-workers", metavar="N", help="and the most of them (default: one on every device)")
    serve.add_argument("--threads", metavar="N", help="torch threads of a worker (default: the number of cores)")
    serve.add_argument(
        "--profile", metavar="NAME", help="memory profile of the model (default auto; see das-server doctor)"
    )
    serve.add_argument(
        "--attention-backend", choices=ATTENTION_BACKENDS, help="attention kernel on CUDA (default auto; see doctor)"
    )
    serve.add_argument(
        "--compile", action="store_true", default=None, help="compile the transformer's blocks (default: do not)"
    )
    serve.add_argument(
        "--float8", action="store_true", default=None, help="their linears in float8: faster, lossy (default: do not)"
    )
    serve.add_argument(
        "--speed", choices=SPEEDS, help="how much is left out of jobs that say nothing of it (default exact)"
    )
    serve.add_argument(
        "--spares",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep a process beside each worker that takes its place when it dies (default: do)",
    )
    serve.add_argument(
        "--curve",
        action="store_true",
        default=None,
        help="let in only those with a key on 127.0.0.1, too (default: do not)",
    )
    serve.add_argument("--admins", metavar="LIST", help="users who may see and cancel everybody's jobs (default none)")
    serve.add_argument("--max-running", metavar="N", help="jobs of one user that may run at once (default: any number)")
    serve.add_argument("--metrics", metavar="PORT", help="numbers for Prometheus at 127.0.0.1:PORT (default none)")
    serve.add_argument("--keep-s", metavar="SECONDS", help="how long jobs that are over stay (default 24 hours)")
    serve.add_argument(
        "--keep-unfetched-s", metavar="SECONDS", help="the same for results that somebody wants (default: for ever)"
    )
    serve.add_argument("--max-kept-bytes", metavar="N", help="bytes above which unused files go sooner (default none)")
    serve.add_argument("--drain-s", metavar="SECONDS", help="time of running jobs to finish on SIGTERM (default 10)")
    serve.add_argument("--log-level", choices=LOG_LEVELS, help=f"(default {ServerConfig.log_level})")
    serve.add_argument("--config", metavar="FILE", type=Path, help="TOML file with the same names")
    serve.set_defaults(command=_serve)


def _add_models_parser(models: argparse.ArgumentParser) -> None:
    actions = models.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="all known models").set_defaults(command=_models_list)
    for name, command, text in (
        ("path", _models_path, "where a model's checkpoint is, or would have to be"),
        ("verify", _models_verify, "compare an installed model with its digests"),
        ("add", _models_add, "install a checkpoint folder"),
        ("pull", _models_pull, "download a model at a revision"),
        ("add-lora", _models_add_lora, "install a LoRA that jobs may ask for by its name"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("name", nargs="?" if name in ("path", "pull") else None, help=NAME_HELP.get(name))
        action.set_defaults(command=command)
        if name == "add":
            action.add_argument("folder", type=Path)
        if name == "add-lora":
            action.add_argument("file", type=Path)
            action.add_argument("--model", default="das-cogvideox-5b", help="the model that it is for")
        if name == "pull":
            action.add_argument("--revision", default="", help="the commit to fetch (default: the table's, if any)")


def _serve(options: argparse.Namespace) -> None:
    from das_server.door.server import serve

    os.umask(0o077)  # prompts and pictures are their owner's, in a folder that others may enter, too
    config = build_config({name: getattr(options, name) for name in SERVE_FLAGS}, file=options.config)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def say_ready(address: str) -> None:
        print(
            f"das-server {__version__} listening on {address} (model {config.model}, state {config.state})", flush=True
        )

    serve(config, on_ready=say_ready)


def _doctor(options: argparse.Namespace) -> None:
    from das_server.models.installing import list_estimators
    from das_server.pipeline import acceleration, precision
    from das_server.pipeline.doctor import doctor
    from das_server.workers import compiled

    speed = acceleration.doctor(options.device)
    print(f"attention backend {speed.attention_backend}: {speed.reason}")
    kernels = default_state_folder() / compiled.FOLDER
    said = f"{compiled.measure(kernels).size_bytes / 1e6:.0f} MB of kernels are kept in {kernels}"
    bounds = f"at most {compiled.MOST_BYTES / 1e6:.0f} MB, {compiled.LONGEST_UNUSED_S / 86400:.0f} days unused"
    print(f"compilation of the blocks: off, unless the server is started with --compile; {said} ({bounds})")
    problem = precision.doctor(options.device)
    print(f"float8: {f'not here, {problem}' if problem else 'off, unless the server is started with --float8'}")
    for one in doctor(device=options.device):
        state = "installed" if one.installed else "not installed"
        print(f"{one.model}: {state}; profile {one.profile or 'none fits'}: {one.reason}")
    for one in list_estimators():
        state = "installed" if one.installed else f"not installed. {one.remedy}"
        print(f"{one.spec.name}: {one.spec.kind}, {state}")


def _models_list(options: argparse.Namespace) -> None:
    from das_server.models.adapters import list_adapters
    from das_server.models.installing import list_estimators
    from das_server.models.registry import default_models_folder, list_models

    for one in list_models():
        state = f"{one.size_bytes / 1e6:.0f} MB" if one.installed else "not installed"
        print(f"{one.spec.name}  {state}  {one.spec.label}  {one.folder}")
    for one in list_estimators():
        size = f"{one.size_bytes / 1e6:.0f} MB" if one.size_bytes else "no weights"
        print(f"{one.spec.name}  {size if one.installed else 'not installed'}  {one.spec.label}  ({one.spec.licence})")
    for one in list_adapters(default_models_folder()):
        print(f"{one.name}  {one.size_bytes / 1e6:.0f} MB  LoRA for {one.model}  {one.path}")


def _models_path(options: argparse.Namespace) -> None:
    from das_server.models.installing import path_of
    from das_server.models.registry import default_models_folder

    print(path_of(options.name) if options.name else default_models_folder())


def _models_verify(options: argparse.Namespace) -> None:
    from das_server.models.installing import verify

    report = verify(options.name, progress=_show_progress())
    print(f"{report.folder}: {report.num_files} files, {report.size_bytes} bytes, all as they were added")


def _models_add(options: argparse.Namespace) -> None:
    from das_server.models.installing import add

    print(add(options.name, options.folder, progress=_show_progress()))


def _models_add_lora(options: argparse.Namespace) -> None:
    from das_server.models.checkpoint import add_lora

    print(add_lora(options.name, options.file, options.model))


def _models_pull(options: argparse.Namespace) -> None:
    from das_server.models.installing import pull
    from das_server.models.registry import model_specs

    name = options.name or next(name for name, spec in model_specs().items() if spec.repository)
    print(pull(name, options.revision, progress=_show_progress()))


def _show_progress() -> Callable[[str, int, int], None] | None:
    """Progress on one line of a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        print(f"\r{what} {done / 1e6:.0f} of {total / 1e6:.0f} MB ", end="\n" if done == total else "", file=sys.stderr)

    return show


def _train(options: argparse.Namespace) -> int:
    if options.dry_run:
        from das_server.training.launch import dry_run

        print(*dry_run(options.recipe), sep="\n")
        return 0
    from das_server.training.launch import run

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return run(options.recipe, options.resume)
