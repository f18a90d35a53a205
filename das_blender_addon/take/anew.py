# SPDX-License-Identifier: GPL-3.0-or-later
"""A take made once more beside the one that is there, and put into its place when it is whole.  No Blender in here.

    <takes>/.<key>.<random>.anew/   while it is made
    <takes>/.<key>.old/             the one before, for the moment between two renames

Whoever finds no take in its place, because a process was killed in that moment, puts the old one back (`put_back`).
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StorageError

LOGGER = logging.getLogger(__name__)
LEFT_BEHIND_S = 24 * 3600.0
"""Age at which the folder of a take that was being made anew counts as left behind by a process that was killed."""
_ROUNDS = 5


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new folder beside the take at ``place``, into which it goes at the end of the block; it is gone on failure."""
    _sweep(place)
    made = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.anew")
    try:
        yield made
        _put_in_place(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def put_back(place: Path) -> None:
    """The old take, where nothing is in its place."""
    if not place.exists() and _old(place).exists():
        with suppress(OSError):  # another process was quicker
            os.rename(_old(place), place)


def _put_in_place(made: Path, place: Path) -> None:
    for _ in range(_ROUNDS):  # another process may put something there between the two renames
        try:
            if place.exists():
                shutil.rmtree(_old(place), ignore_errors=True)
                os.rename(place, _old(place))
            os.rename(made, place)
            shutil.rmtree(_old(place), ignore_errors=True)
            return
        except OSError as error:
            problem = error
    put_back(place)
    raise StorageError(
        f"The take {place} cannot be replaced by the new one: {problem.strerror or problem}; close what has its frames "
        "open and render it anew again."
    ) from problem


def _sweep(place: Path) -> None:
    """Remove what processes that were killed have left of takes of this key."""
    for folder in place.parent.glob(f".{place.name}.*.anew"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > LEFT_BEHIND_S:
                LOGGER.info("%s was left behind and is removed", folder)
                shutil.rmtree(folder)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")
