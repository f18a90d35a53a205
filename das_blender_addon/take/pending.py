# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that were begun, noted on disk until they end: what a Blender that is closed or killed leaves is found again.
No Blender in here.

    <shot folder>/pending/<id>.json     what was asked for, when, and by which ids its jobs go
    <shot folder>/leases/pending-<id>…  held for as long as the process that makes it lives
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..client.files import write_whole
from ..client.leases import Requester
from ..client.take import JobEvent, Named
from ..errors import DasError, JobCancelled, StorageError, TransportError
from ..shot.resolved import KeyChoice, ResolvedSettings
from .cache import read_json
from .drive import Recipe, WithEnd, is_leaving

LOGGER = logging.getLogger(__name__)
LAYOUT = 1
FOLDER = "pending"
MOST_READ = 1000
"""Notes of one shot that are looked at."""


@dataclass(frozen=True)
class PendingTake:
    """A note that was found.

    ``kind``: of what was asked for, a word of whoever noted it.  ``settings``: of each take.  ``jobs``: (take from 0
    on, window from 0 on) → the id of its job, as far as they were known.  ``windows``: take → how many it has.
    ``began``: seconds since the epoch.
    """

    path: Path
    kind: str
    scene: str
    began: float
    settings: tuple[ResolvedSettings, ...]
    jobs: dict[tuple[int, int], str] = field(default_factory=dict)
    windows: dict[int, int] = field(default_factory=dict)

    @property
    def is_wholly_sent(self) -> bool:
        """Whether the last window of every take has its job: no window is left that only a Blender would ask for."""
        last = {take: max(window for of, window in self.jobs if of == take) for take, _ in self.jobs}
        return all(last.get(take, -1) + 1 >= self.windows.get(take, 1) for take in range(len(self.settings)))

    @property
    def key(self) -> str:
        return self.path.stem

    @property
    def when(self) -> str:
        """The minute at which it began, local time."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.began))

    def resumed(self) -> list[ResolvedSettings]:
        """The settings that go on with its jobs, and refuse to make others."""
        return [
            replace(one, resumes=tuple((window, job) for (take, window), job in self.jobs.items() if take == number))
            for number, one in enumerate(self.settings)
        ]


class Note:
    """The note of takes that this process makes; what it hears of them is written at once."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        scene: str,
        settings: Sequence[ResolvedSettings],
        found: PendingTake | None = None,
    ):
        """Note it in the shot's ``folder``; where the disk refuses, nothing is noted, and the takes are made.

        ``found``: the note that is gone on with.
        """
        named = [replace(one, anew_as=uuid.uuid4().hex) if one.anew and not one.anew_as else one for one in settings]
        self.kind, self.settings = kind, tuple(named)
        self.path = Path(folder) / FOLDER / f"{uuid.uuid4().hex[:16]}.json" if found is None else found.path
        self._goes_on = found is not None
        self._jobs = {} if found is None else dict(found.jobs)
        self._windows = {} if found is None else dict(found.windows)
        self._said = {
            "layout": LAYOUT,
            "kind": kind,
            "scene": scene,
            "began": time.time() if found is None else found.began,
            "settings": [_plain(one) for one in self.settings],
        }
        self._lock = threading.Lock()
        self._hold()
        self._write()

    def hear(self, take: int, event: JobEvent) -> None:
        """An event of the take ``take``."""
        if isinstance(event, Named):
            with self._lock:
                self._jobs[take, event.number], self._windows[take] = event.job, event.of
                self._write()

    def follow(self, folder: Path) -> None:
        """The file has another name now, and the shot the ``folder``: the note goes there."""
        with self._lock:
            old, owner = self.path, self._owner
            self.path = Path(folder) / FOLDER / old.name
            if self.path == old:
                return
            self._hold()
            self._write()
            _remove(old)
            owner.leave()

    def over(self, error: BaseException | None) -> None:
        """The takes are there, failed of ``error``, or nobody wants them: the note goes.  It stays where this Blender
        only leaves, or has lost its server, as the jobs go on; and where they could not be gone on with.
        """
        is_dropped = isinstance(error, GeneratorExit | JobCancelled)
        is_kept = isinstance(error, TransportError) or (self._goes_on and error is not None and not is_dropped)
        if not is_leaving() and not is_kept:
            _remove(self.path)
        self._owner.leave()

    def forget(self) -> None:
        """Nobody wants them any more: the note goes, why ever it was kept."""
        _remove(self.path)

    def following(self, recipe: Recipe) -> Recipe:
        """``recipe``, which makes the takes; the note is over with it."""
        return WithEnd(recipe, self.over)

    def _hold(self) -> None:
        self._owner = _owner(self.path).enter()
        self._owner.lead()

    def _write(self) -> None:
        try:
            jobs = [[*place, job] for place, job in sorted(self._jobs.items())]
            said = {**self._said, "jobs": jobs, "windows": sorted(self._windows.items())}
            write_whole(self.path, json.dumps(said, indent=1).encode())
        except StorageError as error:
            LOGGER.warning("The take is not noted: %s", error.message)


def pending_takes(folder: Path) -> list[PendingTake]:
    """The takes of the shot's ``folder`` that were begun and that no living process makes, the oldest first.

    Notes that cannot be read, or that another release wrote in another way, are left out and left alone.
    """
    try:
        paths = sorted((Path(folder) / FOLDER).glob("*.json"))[:MOST_READ]
    except OSError:
        return []
    found = [note for note in map(_read, paths) if note is not None and not _is_made(note.path)]
    return sorted(found, key=lambda note: (note.began, note.key))


def forget_pending(notes: Iterable[PendingTake]) -> None:
    """The ``notes`` go; what their jobs made stays where it is."""
    for note in notes:
        _remove(note.path)


def _read(path: Path) -> PendingTake | None:
    said = read_json(path)
    if said is None or said.get("layout") != LAYOUT:
        return None
    try:
        settings = tuple(_settings(one) for one in said["settings"])
        jobs = {(int(take), int(window)): str(job) for take, window, job in said["jobs"]}
        if not settings or any(take >= len(settings) for take, _ in jobs):
            return None
        windows = {int(take): int(count) for take, count in said.get("windows", ())}
        return PendingTake(path, str(said["kind"]), str(said["scene"]), float(said["began"]), settings, jobs, windows)
    except (KeyError, TypeError, ValueError, AttributeError, DasError) as error:
        LOGGER.warning("%s cannot be read: %s", path, error)
        return None


def _plain(settings: ResolvedSettings) -> dict:
    return asdict(replace(settings, resumes=())) | {"cache_folder": str(settings.cache_folder)}


def _settings(said: dict) -> ResolvedSettings:
    known = {one.name for one in fields(ResolvedSettings)}
    values = {name: _tupled(value) for name, value in said.items() if name in known}
    keys = said.get("key_pictures")
    values["key_pictures"] = None if keys is None else tuple(KeyChoice(**one) for one in keys)
    return ResolvedSettings(**values | {"cache_folder": Path(said["cache_folder"])})


def _tupled(value):
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _owner(path: Path) -> Requester:
    return Requester(path.parents[1] / "leases", f"pending-{path.stem}")


def _is_made(path: Path) -> bool:
    """Whether a process that lives makes it."""
    with _owner(path) as owner:
        return owner.is_led()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        LOGGER.warning("%s stays: %s", path, error)
