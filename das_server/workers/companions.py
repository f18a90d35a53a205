# SPDX-License-Identifier: GPL-3.0-or-later
"""The other processes of a worker of several devices, as its first one sees them: started, told, and missed.

They are one worker: when one of them ends, so does the first, and the server starts all of them anew.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from das_server.workers import wire

if TYPE_CHECKING:
    from das_server.pipeline.group import Group

_log = logging.getLogger(__name__)

class Companions:
    """Processes for ``devices``, all of the worker's, the first being this one's own.  ``arguments``: what the others
    are told beside device and rank.  ``folder``: the worker's own, emptied here, for a file by which they find each
    other, now and whenever they begin to talk in another way."""

    def __init__(self, devices: Sequence[str], arguments: Sequence[str], folder: Path):
        self.devices = tuple(devices)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.meeting = (folder / f"meeting-{os.getpid()}").absolute().as_uri()
        command = [sys.executable, "-P", "-m", "das_server.workers.companion", "--parent", str(os.getpid())]
        command += ["--meeting", self.meeting, "--size", str(len(devices)), *arguments]
        self._processes = [
            subprocess.Popen(
                [*command, "--rank", str(rank), "--device", device], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            for rank, device in enumerate(devices)
            if rank
        ]
        for process in self._processes:
            threading.Thread(target=self._miss, args=(process,), name="companion", daemon=True).start()

    def join(self, device: str) -> Group:
        """Return when all are there; this process is the first, on ``device``."""
        import torch

        from das_server.pipeline.group import Group

        return Group(0, len(self.devices), torch.device(device), self.meeting, self.tell)

    def tell(self, line: str) -> None:
        """A line to each of the others."""
        for process in self._processes:
            try:
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
            except OSError:
                self._end(process)

    def _miss(self, process: subprocess.Popen) -> None:
        process.wait()
        self._end(process)

    def _end(self, process: subprocess.Popen) -> None:
        _log.error("the process %s, which is part of this worker, has ended (%s)", process.pid, process.poll())
        os._exit(wire.COMPANION_LOST_STATUS)
