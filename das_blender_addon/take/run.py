# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a take: found in the cache, waited for where another process makes it, or run on a server.  No Blender in
here.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..client.files import write_whole
from ..client.leases import Requester
from ..client.take import JobOutcome, JobRequest, Log, Named, OnEvent, Preview, Progress, run_job
from ..errors import JobCancelled, SettingsError, StorageError
from ..protocol.messages import BATCH
from ..protocol.png import encode_png, photographic_png
from ..shot.windows import owners
from ..tracking.coverage import coverage
from ..tracking.framing import crop_and_resize
from .anew import beside
from .cache import Take, TakeRequest, find_take, job_key, take_of
from .drive import is_leaving
from .job_names import check_job, check_resumed, id_of_job
from .join import passed_over
from .made import Made, bytes_of, description, frame_of, pixels
from .shares import Shares, Turns
from .window_store import kept_window, note_window

LOGGER = logging.getLogger(__name__)
Run = Callable[[JobRequest, Path, str, OnEvent, Callable[[], bool]], JobOutcome]
MOST_JOBS = 4
"""Windows whose jobs are followed at the same time."""
JOBS_SHARE, CARRYING_SHARE = 0.6, 0.08
"""Guesses: the part of a take's progress that its jobs are, where frames are composed afterwards, and the part of a job
before it is sent."""
FIRST_LOOK_S = 1.0
"""How long jobs wait for the first composed frame to be shown, where they need the processor to be prepared."""
WAIT_S = 0.2
"""Seconds between two looks at the lease of somebody who makes the same take."""
LEASE_DIGITS = 16


def run_take(
    request: TakeRequest,
    server: str,
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    anew: bool | str = False,
    resumes: Mapping[int, str] | None = None,
    lease_s: float = 0.0,
    priority: int = BATCH,
    timeout_s: float = 30.0,
) -> Take:
    """Find the take of ``request`` or have ``server`` make it; blocks, needs no Blender, any thread.

    Of several processes with one cache one makes it and the others wait; one that is stopped withdraws itself only.
    Without a cache in common they share the jobs on the server, whose ids are made of what they ask for.  ``anew``:
    have it made although it is there, by jobs of its own; the new one takes the old one's place when it is whole.  A
    word instead of True names these jobs: the same word goes on with them.  ``resumes``: window (from 0 on) → the id
    that its job must have; `SettingsError` where the shot asks for another one.
    ``on_event`` gets the events of `client.take.run_job`, from several threads where the shot has several windows, one
    at a time.  ``should_stop`` is asked as often as `run_job` asks it, and between two frames of what follows.
    ``lease_s``, ``priority``: see `run_job`.  One function, though long: half of it says what can be asked.  Raises
    whatever `run_job` raises, `JobCancelled`, and `StorageError`.
    """
    others_wait: list[Callable[[], bool]] = []

    def run(job: JobRequest, folder: Path, job_id: str, tell: OnEvent, stop: Callable[[], bool]) -> JobOutcome:
        return run_job(
            server,
            job,
            folder,
            on_event=tell,
            should_stop=stop,
            job_id=job_id,
            lease_s=lease_s,
            priority=priority,
            timeout_s=timeout_s,
            # Whoever leads next goes on with the job; so does the server when this Blender only leaves.
            leaves_running=lambda: is_leaving() or any(wait() for wait in others_wait),
        )

    if anew:
        with beside(request.folder) as folder:
            making = _Making(replace(request, folder=folder), run, on_event, should_stop, anew=anew, resumes=resumes)
            said = making.make()
        return take_of(request.folder, said, cached=False)
    found = find_take(request)
    if found is not None:
        check_resumed(found, resumes or {})
        return found
    with Requester(request.folder.parents[1] / "leases", request.job_key[:LEASE_DIGITS]) as requester:
        others_wait.append(requester.others_wait)
        told = False
        while (lease := requester.lead()) is None:
            _check_stop(should_stop)
            if not told and on_event is not None:
                on_event(Log("Another process makes this take; waiting for it."))
            told = True
            time.sleep(WAIT_S)
        with lease:
            found = find_take(request)
            if found is not None:
                return found
            said = _Making(request, run, on_event, should_stop, resumes=resumes).make()
            return take_of(request.folder, said, cached=False)


def run_part(
    request: TakeRequest,
    server: str,
    part: tuple[int, int],
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    priority: int = BATCH,
    timeout_s: float = 30.0,
) -> range:
    """Have ``server`` make the windows of ``part`` (number from 1 on, of how many) of the take of ``request``, for
    whoever makes the whole of it; blocks.  Returns which windows these are, from 0 on; there may be none.

    Raises `SettingsError` for a window that begins with a frame of another part, and what `run_take` raises.
    """
    number, of = part
    count = len(request.plan.windows)
    numbers = range((number - 1) * count // of, number * count // of)
    if find_take(request) is not None or not numbers:
        return numbers
    if request.follows(numbers[0]):
        frame = request.plan.frames[request.plan.made[request.plan.windows[numbers[0]].start]]
        raise SettingsError(
            f"The part {number}/{of} begins with a frame of the part before it, which is made elsewhere: add a key "
            f"picture at frame {frame}, or render the shot as a whole.",
            field="windows",
        )

    def run(job: JobRequest, folder: Path, job_id: str, tell: OnEvent, stop: Callable[[], bool]) -> JobOutcome:
        return run_job(
            server, job, folder, on_event=tell, should_stop=stop, job_id=job_id, timeout_s=timeout_s,
            priority=priority, leaves_running=is_leaving,
        )  # fmt: skip

    _Making(request, run, on_event, should_stop).windows(numbers)
    return numbers


class _Making:
    """One take being made."""

    def __init__(
        self, request: TakeRequest, run: Run, on_event, should_stop, *, anew: bool | str = False, resumes=None
    ):
        self._request, self._plan, self._run, self._anew = request, request.plan, run, anew
        self._resumes = dict(resumes or {})
        self._should_stop = should_stop or (lambda: False)
        self._to_compose = len(self._plan.between) + self._plan.keeps_detail * len(self._plan.frames)
        self._tell = Shares(on_event, len(self._plan.windows), JOBS_SHARE if self._to_compose else 1.0)
        self._turns = Turns()
        self._names = [f"{index + 1:04d}.png" for index in range(len(self._plan.frames))]

    def make(self) -> dict:
        """What take.json says.  Raises `StorageError` where somebody deletes what was made so far."""
        try:
            return self._make()
        except FileNotFoundError as error:
            raise StorageError(
                f"The take lost {error.filename}, as somebody has deleted it meanwhile; render the take again."
            ) from error

    def _make(self) -> dict:
        request, started = self._request, time.perf_counter()
        # 1. The model's frames: from a take of the same job at another render size, or from the server.
        with request.detail.helped() if request.detail is not None else nullcontext():
            with self._composing_ahead():
                made = self.windows(range(len(self._plan.windows)))
            received = time.perf_counter()
            # 2. The shot's frames.
            self._join(made)
            self._write_frames()
        if self._plan.transparent_film:
            self._write_alpha()
        # 3. What they were made from.
        for name, frame in zip(self._names, self._plan.frames, strict=True):
            _check_stop(self._should_stop)
            write_whole(request.folder / "tracking" / name, encode_png(request.shot.passes(frame)[0]))
        write_whole(request.folder / "first_frame.png", request.first_frame_png)
        # 4. take.json, which makes it a take.
        timings = dict(request.timings)
        timings["job"] = received - started
        timings["frames"] = time.perf_counter() - received
        timings.update({f"job.{name}": seconds for name, seconds in made[0].outcome.timings.items()})
        timings["take"] = time.perf_counter() - started
        said = description(request, made, self._names, timings)
        write_whole(request.folder / "take.json", json.dumps(said, indent=1, sort_keys=True).encode())
        return said

    @contextmanager
    def _composing_ahead(self) -> Iterator[None]:
        """While the model paints, frames are composed as far as the key pictures tell; until it does, only one to look
        at: the processor has the job to prepare.
        """
        if not self._plan.keeps_detail:
            yield
            return
        over, shown = threading.Event(), threading.Event()

        def show(frame: np.ndarray) -> None:
            self._tell.event(Preview(0, encode_png(frame), "image/png"))
            shown.set()

        half = len(self._plan.frames) // 2  # a frame from there tells more than the second one
        indices = [*range(half, len(self._plan.frames)), *range(half)]

        def stop() -> bool:
            return over.is_set() or self._should_stop()

        def pause() -> None:
            self._turns.wait_for([0], stop)

        with ThreadPoolExecutor(1, thread_name_prefix="das ahead") as pool:
            ahead = pool.submit(self._request.detail.compose_ahead, indices, stop, show, pause)
            ahead.add_done_callback(lambda _: shown.set())
            try:
                if self._plan.reads_carried:
                    shown.wait(FIRST_LOOK_S)
                yield
            finally:
                over.set()
        ahead.result()

    # ── The model's frames ──────────────────────────────────────────────────────────────────────────────────────────

    def windows(self, numbers: Sequence[int]) -> list[Made]:
        """The frames of the windows ``numbers``.  Those that do not follow another one are made at the same time."""
        if len(numbers) == 1:
            return [self._window(numbers[0], b"", self._should_stop)]
        chains = [[number] for number in numbers if not self._request.follows(number)]
        for number in numbers:
            if self._request.follows(number):
                next(chain for chain in chains if chain[-1] == number - 1).append(number)
        failed = threading.Event()

        def stop() -> bool:
            return failed.is_set() or self._should_stop()

        turns = [chain[0] for chain in chains]

        def make_chain(chain: list[int]) -> list[Made]:
            done: list[Made] = []
            try:
                # Prepared one after the other, so that the server gets the first one first.
                if not self._turns.wait_for(turns[: turns.index(chain[0])], stop):
                    raise JobCancelled("The take was cancelled.")
                for number in chain:
                    done.append(self._window(number, frame_of(done[-1], number, self._plan) if done else b"", stop))
            except BaseException:
                failed.set()
                raise
            finally:
                self._turns.over(chain[0])
            return done

        with ThreadPoolExecutor(min(len(chains), MOST_JOBS), thread_name_prefix="das window") as pool:
            futures = [pool.submit(make_chain, chain) for chain in chains]
            wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:  # the one that made the others stop
            raise next((error for error in errors if not isinstance(error, JobCancelled)), errors[0])
        return sorted((made for future in futures for made in future.result()), key=lambda made: made.number)

    def _window(self, number: int, before: bytes, stop: Callable[[], bool]) -> Made:
        tell = self._tell.of(number)

        def carrying(done: int, of: int) -> None:
            tell(Progress("carrying", done, of, CARRYING_SHARE * done / of))

        def after_carrying(event: object) -> None:
            if isinstance(event, Progress):
                event = replace(event, fraction=CARRYING_SHARE + (1.0 - CARRYING_SHARE) * event.fraction)
            tell(event)
            if isinstance(event, Progress) and event.stage not in ("carrying", "uploading"):
                self._turns.over(number)

        job = self._request.window_job(number, before, progress=carrying, should_stop=stop)
        key = job_key(job)
        alone = len(self._plan.windows) == 1 and not self._plan.between
        part = "model" if alone else f"windows/{number + 1:02d}"
        folder = self._request.folder / part
        takes = self._request.folder.parent
        outcome = None if self._anew else kept_window(takes, key, folder, job.spec.kept_frames)
        if outcome is None:
            job_id = id_of_job(key, self._anew)
            check_job(number, job_id, self._resumes)
            tell(Named(number, job_id, len(self._plan.windows)))
            outcome = self._run(job, folder, job_id, after_carrying, stop)
        note_window(folder, key, outcome)
        return Made(number, part, key, job, outcome)

    def _join(self, made: list[Made]) -> None:
        """``model/``: one frame for each of the shot, where windows overlap from both, where the model made none from
        the frames beside it.
        """
        plan, folder = self._plan, self._request.folder / "model"
        if len(made) == 1 and not plan.between:
            return
        windows = plan.windows
        for place, index in enumerate(plan.made):
            _check_stop(self._should_stop)
            first, second, share = owners(windows, place)
            png = bytes_of(made[windows.index(first)], place - first.start)
            if second is not None:
                after = bytes_of(made[windows.index(second)], place - second.start)
                png = encode_png(passed_over(pixels(png), pixels(after), share))
            write_whole(folder / self._names[index], png)
        if plan.between:
            self._request.detail.between(
                lambda index: pixels(self._model_frame(index)),
                lambda index, frame: write_whole(folder / self._names[index], encode_png(frame)),
                progress=lambda done, _of: self._tell.composing(done, self._to_compose),
                should_stop=self._should_stop,
            )

    def _model_frame(self, index: int) -> bytes:
        return (self._request.folder / "model" / self._names[index]).read_bytes()

    # ── The shot's frames ───────────────────────────────────────────────────────────────────────────────────────────

    def _write_frames(self) -> None:
        request, framing = self._request, self._plan.framing

        def keep(index: int, png: bytes, covered: np.ndarray | None = None) -> None:
            write_whole(request.folder / "frames" / self._names[index], png)
            if covered is not None and not self._plan.transparent_film:
                self._write_coverage(index, np.where(covered, np.uint8(255), np.uint8(0)))

        if self._plan.keeps_detail:
            request.detail.compose(
                range(len(self._names)),
                lambda index: pixels(self._model_frame(index)),
                keep,
                packed=True,
                progress=lambda done, _of: self._tell.composing(len(self._plan.between) + done, self._to_compose),
                should_stop=self._should_stop,
            )
            return
        for index, name in enumerate(self._names):
            _check_stop(self._should_stop)
            if framing.is_exact:
                write_whole(request.folder / "frames" / name, self._model_frame(index))
            else:
                keep(index, photographic_png(crop_and_resize(pixels(self._model_frame(index))[None], framing)[0]))

    def _write_alpha(self) -> None:
        geometry = self._request.shot.geometry
        if geometry is None:
            raise SettingsError("The shot has no geometry to take the alpha of its film from; export it again.")
        for index in range(len(self._names)):
            self._write_coverage(index, coverage(geometry, index, smooth=True, should_stop=self._should_stop))

    def _write_coverage(self, index: int, covered: np.ndarray) -> None:
        write_whole(self._request.folder / "coverage" / self._names[index], encode_png(covered[..., None]))


def _check_stop(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise JobCancelled("The take was cancelled.")
