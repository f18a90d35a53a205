# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that a command writes frames into: what an earlier take of the shot left there.  No Blender in here.

A frame is known to be ours by its content, which a take in the shot's cache still has, cut out where the film was
transparent.  Only a take that the new one replaces counts: one that shares a frame with it.  Frames of other chunks of
the shot, and of others, are left alone.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from ..client.files import holds
from ..errors import DasError
from ..protocol.png import alpha_of_png, blob_sha
from .cache import LAYOUT, Take, read_json
from .finished import cut_out


def clear_output(take: Take, folder: Path, *, removes: bool) -> str:
    """One sentence about the frames in ``folder`` that are not in ``take`` but in an earlier one that it replaces; ""
    when there are none.  ``removes``: they are removed, not only told of.
    """
    left = _left_over(take, folder)
    if removes:
        left = [(path, sha) for path, sha in left if _remove(path, sha)]
    if not left:
        return ""
    names = left[0][0].name if len(left) == 1 else f"{left[0][0].name} to {left[-1][0].name}"
    count = f"{len(left)} frame{'s' if len(left) > 1 else ''} of an earlier take ({names})"
    if removes:
        return f"{count} removed from {folder}."
    return f"{folder} still holds {count}; --clean removes what an earlier take of the shot left."


def _left_over(take: Take, folder: Path) -> list[tuple[Path, str]]:
    """(file, SHA-256) of the frames of earlier takes in ``folder``."""
    now, found = set(take.frame_numbers), {}
    for file in take.folder.parent.glob("*/take.json"):
        said = read_json(file)
        if said is None or said.get("layout") != LAYOUT or said.get("key") == take.key:
            continue
        numbers, files = said.get("frame_numbers", []), said.get("files", {})
        if not now.intersection(numbers):
            continue
        for index, number in enumerate(numbers):
            path, name = folder / f"{number:04d}.png", f"frames/{index + 1:04d}.png"
            if number not in now and path not in found:
                sha = _sha_of_copy(path, file.parent / name, files.get(name, ""))
                if sha:
                    found[path] = sha
    return sorted(found.items())


def _sha_of_copy(path: Path, frame: Path, sha: str) -> str:
    """SHA-256 of the file ``path`` where it is the take's ``frame``, whose own is ``sha``, or that cut out; else ""."""
    try:
        content = path.read_bytes()
        if blob_sha(content) == sha:
            return sha
        alpha = alpha_of_png(content)
        if alpha is not None and holds(frame, sha) and cut_out(frame.read_bytes(), alpha) == content:
            return blob_sha(content)
    except (OSError, DasError, ValueError):  # no frame of ours
        pass
    return ""


def _remove(path: Path, sha: str) -> bool:
    """Remove ``path`` unless it is another file by now; whether it was removed."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        os.rename(path, aside)
        if holds(aside, sha):
            aside.unlink()
            return True
        if path.exists():
            aside.unlink()
        else:
            os.rename(aside, path)  # somebody has just written it
    except OSError:
        return False
    return False
