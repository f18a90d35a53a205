# SPDX-License-Identifier: GPL-3.0-or-later
"""The model's frames of one window on disk, found by what they were made of: by another take, by whoever goes on after
a crash, and by who makes a whole of which several machines have made parts.  No Blender in here.

    <takes>/<key>/model/  or  <takes>/<key>/windows/02/
        0001.png …       as received
        window.json      written last: the job's key, its id, its report, the SHA-256 of every frame
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ..client.files import holds, write_whole
from ..client.take import JobOutcome
from ..protocol.png import blob_sha

LOGGER = logging.getLogger(__name__)
LAYOUT = 1
"""Version of window.json."""
NAME = "window.json"


def note_window(folder: Path, key: str, outcome: JobOutcome) -> None:
    """``folder`` holds the whole ``outcome`` of the job ``key``.  Raises `StorageError`."""
    said = {
        "layout": LAYOUT,
        "job_key": key,
        "job_id": outcome.job_id,
        "report": outcome.report,
        "files": {path.name: blob_sha(path.read_bytes()) for path in outcome.frames},
    }
    write_whole(folder / NAME, json.dumps(said, indent=1, sort_keys=True).encode())


def kept_window(takes: Path, key: str, folder: Path, count: int) -> JobOutcome | None:
    """The ``count`` frames of the job ``key`` that some take below ``takes`` has, put into ``folder``; None when there
    are none that are whole.
    """
    noted = [*takes.glob(f"*/model/{NAME}"), *takes.glob(f"*/windows/*/{NAME}")]
    names = [f"{index + 1:04d}.png" for index in range(count)]
    for path in sorted(noted, key=_age_s):  # one that was made anew goes first
        said = _read(path)
        if said.get("layout") != LAYOUT or said.get("job_key") != key:
            continue
        files = said.get("files", {})
        if not all(holds(path.parent / name, files.get(name, "")) for name in names):
            continue
        try:
            for name in names:
                if path.parent != folder:
                    write_whole(folder / name, (path.parent / name).read_bytes())
        except OSError:  # another process has just put a new one in its place
            continue
        LOGGER.info("the model's frames of a window come from %s", path.parent)
        return JobOutcome(str(said.get("job_id", "")), [folder / name for name in names], said.get("report", {}), [])
    return None


def _read(path: Path) -> dict:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _age_s(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
