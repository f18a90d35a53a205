# SPDX-License-Identifier: GPL-3.0-or-later
"""One frozen `ServerConfig` from flags > environment (``DAS_SERVER_…``) > TOML file > defaults."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das_blender_addon.errors import AuthenticationFailed, SettingsError
from das_blender_addon.protocol.kinds import MAX_SIZE_BYTES

DEFAULT_BIND = "tcp://127.0.0.1:5599"
ENVIRONMENT_PREFIX = "DAS_SERVER_"
LOG_LEVELS = ("debug", "info", "warning", "error")
ATTENTION_BACKENDS = ("auto", "native", "cudnn")
SPEEDS = ("exact", "fast", "preview")
SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
MEBIBYTE = 1 << 20
LOCAL = "local"
SERVER_KEY = Path("keys", "server.json")
"""In the state folder: the server's own key pair."""


@dataclass(frozen=True)
class ServerConfig:
    """All that can be set on a server; durations in seconds, sizes in bytes.

    ``bind``: tcp://HOST:PORT, PORT "*" for any free one; only with keys HOST may be other than a loopback address.
    ``curve``: keys are needed on a loopback address, too. ``state``: folder of jobs and blobs.
    ``model``: loaded at start, and what clients use that name none. ``devices``: one worker each ("auto",
    "cpu", "cuda:0", …), of several where they are joined ("cuda:0+cuda:1").
   ``threads``: torch threads of each worker, 0 for the number of cores. ``profile``: how the
    model is laid out in memory. ``attention_backend``: the attention kernel on CUDA, one of `ATTENTION_BACKENDS`.
    ``compile``: compile the transformer's blocks. ``float8``: compute their linears in float8.
    ``speed``: how much is left out of jobs that say nothing of it, one of `SPEEDS`.
    ``spares``: keep a process beside each worker that takes its place when it dies.
    ``admins``: users who may see, cancel and requeue everybody's jobs.
    ``max_running``: jobs of one user that may run at once, 0 for any number.
    ``keep_s``: how long jobs that are over and unused blobs stay on disk; results that somebody still wants stay for
    ``keep_unfetched_s``, 0 for as long as it takes. ``max_kept_bytes``: blobs above which unused ones go sooner, 0 for
    any number. ``drain_s``: how long running jobs may take to finish after SIGTERM, before they are broken off.
    ``metrics``: port of 127.0.0.1 at which Prometheus finds numbers, 0 for none.
    ``min_free_bytes``: disk space that uploads must leave; jobs wait where less than a quarter of it is free.
    ``max_attempts``: how many workers a job may lose.
    ``cancel_grace_s``: how long a worker may take to obey before it is killed. ``heartbeat_timeout_s``: silence after
    which a worker that was ready counts as lost. ``stall_timeout_s``: the same for a job without progress.
    """

    bind: str = DEFAULT_BIND
    state: Path = Path()
    model: str = "das-preview"
    devices: tuple[str, ...] = ("auto",)
    workers: str = LOCAL
    min_workers: int = 1
    max_workers: int = 0
    threads: int = 0
    profile: str = "auto"
    attention_backend: str = "auto"
    compile: bool = False
    spares: bool = True
    float8: bool = False
    speed: str = "exact"
    curve: bool = False
    admins: tuple[str, ...] = ()
    log_level: str = "info"
    max_blob_bytes: int = 512 * MEBIBYTE
    min_free_bytes: int = 256 * MEBIBYTE
    keep_s: float = 24 * 3600.0
    keep_unfetched_s: float = 0.0
    max_kept_bytes: int = 0
    drain_s: float = 10.0
    metrics: int = 0
    max_attempts: int = 3
    max_running: int = 0
    cancel_grace_s: float = 15.0
    heartbeat_timeout_s: float = 30.0
    stall_timeout_s: float = 3600.0


def build_config(
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    check_address: bool = True,
) -> ServerConfig:
    """Merge the sources and check every value; ``flags`` that are None count as not given.

    ``file`` None: ``DAS_SERVER_CONFIG``, else `default_config_file` if it exists.  ``check_address`` False: for those
    who only look at the state folder.  Raises `SettingsError` (with
    ``field``) for an unknown name or a value that cannot be used, `AuthenticationFailed` for an address that other
    machines could reach.
    """
    environment = os.environ if environment is None else environment
    values = {field.name: (field.default, "the default") for field in dataclasses.fields(ServerConfig)}
    values["state"] = (default_state_folder(environment), "the default")
    for name, value in _read_file(file, environment).items():
        values[name] = (value, "the configuration file")
    for name in values:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environment.get(variable, "") != "":
            values[name] = (environment[variable], variable)
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = (value, "--" + name.replace("_", "-"))
    config = ServerConfig(**{name: _convert(name, value, source) for name, (value, source) in values.items()})
    if check_address:
        _check_address(config)
    _check(config)
    return config


def default_state_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The platform's folder for user data, ``das-server`` in it."""
    environment = os.environ if environment is None else environment
    home = Path(environment.get("HOME") or Path.home())
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "das-server"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "das-server"
    return Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share") / "das-server"


def default_config_file(environment: Mapping[str, str] | None = None) -> Path:
    """``config.toml`` in the platform's folder for user configuration."""
    environment = os.environ if environment is None else environment
    if sys.platform in ("win32", "darwin"):
        return default_state_folder(environment) / "config.toml"
    home = Path(environment.get("HOME") or Path.home())
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "das-server" / "config.toml"


def split_address(address: str, *, field: str = "bind") -> tuple[str, str]:
    """``tcp://HOST:PORT`` → (HOST without brackets, PORT); raises `SettingsError`."""
    scheme, separator, rest = address.partition("://")
    host, colon, port = rest.rpartition(":")
    usable_port = port == "*" or (port.isdecimal() and 0 < int(port) < 65536)
    if scheme != "tcp" or not separator or not colon or not host or not usable_port:
        raise SettingsError(
            f"The address {address!r} is not of the form tcp://HOST:PORT, such as {DEFAULT_BIND}.", field=field
        )
    return host.removeprefix("[").removesuffix("]"), port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_file(file: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    named = file or (Path(environment["DAS_SERVER_CONFIG"]) if environment.get("DAS_SERVER_CONFIG") else None)
    path = named or default_config_file(environment)
    if named is None and not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"The configuration file {path} cannot be read: {error}.", field="config") from error
    known = [field.name for field in dataclasses.fields(ServerConfig)]
    for name in values:
        if name not in known:
            raise SettingsError(
                f"{path} sets {name!r}, which does not exist; use one of {', '.join(known)}.", field=name
            )
    return values


def _convert(name: str, value: Any, source: str) -> Any:
    kind = type(getattr(ServerConfig, name))
    try:
        if name == "state":
            return Path(value).expanduser().absolute()
        if kind is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(str(part).strip() for part in parts)
        if kind is bool:
            return value if isinstance(value, bool) else SWITCHES[value.strip().lower()]
        if kind in (int, float):
            if isinstance(value, bool):
                raise ValueError
            number = kind(value)
            if isinstance(value, float) and number != value:
                raise ValueError
            return number
        if not isinstance(value, str):
            raise ValueError
        return value
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        wanted = {int: "a whole number", float: "a number", tuple: "a list of names", bool: "true or false"}
        wanted = wanted.get(kind, "text")
        raise SettingsError(f"{name} is {value!r} ({source}) but must be {wanted}.", field=name) from error


def needs_keys(config: ServerConfig) -> bool:
    """Whether nobody is let in without a key."""
    return config.curve or not is_loopback(split_address(config.bind)[0])


def _check_address(config: ServerConfig) -> None:
    if needs_keys(config) and not (config.state / SERVER_KEY).is_file():
        raise AuthenticationFailed(
            f"The server does not listen on {config.bind}: other machines could reach it and authentication is "
            f"not configured; make its keys with das-server keys create (state folder {config.state}), or bind to "
            "127.0.0.1 and reach it through an SSH tunnel.",
            field="bind",
        )


def _check(config: ServerConfig) -> None:
    split_address(config.bind)
    for name, choices in {"log_level": LOG_LEVELS, "attention_backend": ATTENTION_BACKENDS, "speed": SPEEDS}.items():
        value = getattr(config, name)
        if value not in choices:
            raise SettingsError(f"{name} is {value!r} but must be one of {', '.join(choices)}.", field=name)
    for device in config.devices or ("",):
        parts = device.split("+")
        if not (all(re.fullmatch(r"cpu|cuda:\d+", part) for part in parts) or device == "auto"):
            raise SettingsError(
                f"devices names {device!r} but takes auto, cpu, cuda:0, cuda:1 …, and cuda:0+cuda:1 for one worker of "
                "both.",
                field="devices",
            )
        gpus = [part for part in parts if part != "cpu"]
        if len(set(gpus)) < len(gpus) or (gpus and len(gpus) < len(parts)):
            raise SettingsError(
                f"devices names {device!r}, but one worker is of different GPUs, or of CPUs.", field="devices"
            )
        if len(parts) > 1 and config.workers != LOCAL:
            raise SettingsError(
                f"devices names {device!r}, but a worker of several devices is not for a cluster.", field="devices"
            )
    lowest = {"threads": 0, "max_blob_bytes": 1, "min_free_bytes": 0, "keep_s": 0.0, "max_attempts": 1}
    lowest |= {"metrics": 0, "keep_unfetched_s": 0.0, "max_kept_bytes": 0, "drain_s": 0.0, "max_running": 0}
    lowest |= {"min_workers": 0, "max_workers": 0}
    lowest |= {"cancel_grace_s": 0.0, "heartbeat_timeout_s": 1.0, "stall_timeout_s": 1.0}
    for name, least in lowest.items():
        value = getattr(config, name)
        if not value >= least or value == float("inf"):
            raise SettingsError(f"{name} is {value} but must be a finite number of at least {least}.", field=name)
    if config.metrics > 65535:
        raise SettingsError(f"metrics is {config.metrics} but must be a port, at most 65535.", field="metrics")
    _check_workers(config)
    if config.max_blob_bytes > MAX_SIZE_BYTES:
        raise SettingsError(
            f"max_blob_bytes is {config.max_blob_bytes} but must be at most {MAX_SIZE_BYTES}.", field="max_blob_bytes"
        )


def _check_workers(config: ServerConfig) -> None:
    if config.workers == LOCAL and (config.min_workers, config.max_workers) != (1, 0):
        raise SettingsError(
            "min_workers and max_workers are for a cluster (--workers ray); otherwise each device has one worker.",
            field="max_workers",
        )
    if 0 < config.max_workers < config.min_workers:
        raise SettingsError(
            f"max_workers is {config.max_workers} but must be at least min_workers, {config.min_workers}, or 0.",
            field="max_workers",
        )
