# SPDX-License-Identifier: GPL-3.0-or-later
"""How the process of a worker is started."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from das_server.workers import wire
from das_server.workers.devices import KEPT_MEMORY, SLEEPING_THREADS


@dataclass(frozen=True)
class Spawner:
    """What all worker processes of a server have in common.  ``arguments``: how models are laid out and computed."""

    address: str
    token: str
    state: Path
    arguments: tuple[str, ...]

    def start(
        self, routing_id: str, device: str, environment: Mapping[str, str], *, is_spare: bool = False
    ) -> subprocess.Popen:
        """Start one; raises `OSError` where the system has no process or file left.  ``is_spare``: it imports what a
        job needs and waits until a line of its stdin says as whom it goes on."""
        package_root = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH")
        variables = SLEEPING_THREADS | KEPT_MEMORY | os.environ | environment | {wire.TOKEN_VARIABLE: self.token}
        variables["PYTHONPATH"] = package_root + (os.pathsep + inherited if inherited else "")
        # -P: where the server was started in a folder with another copy of it, that one would run.
        command = [sys.executable, "-P", "-m", "das_server.workers.child", "--address", self.address]
        command += ["--routing-id", routing_id, "--device", device, "--state", str(self.state), *self.arguments]
        command += ["--parent", str(os.getpid()), *(["--spare"] if is_spare else [])]
        command += ["--log-level", logging.getLevelName(logging.getLogger().getEffectiveLevel())]
        # A group of its own: Ctrl-C in a terminal is for the server alone, which then ends its workers.
        group = {"process_group": 0} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        stdin = subprocess.PIPE if is_spare else subprocess.DEVNULL
        return subprocess.Popen(command, env=variables, stdin=stdin, stdout=subprocess.DEVNULL, **group)
