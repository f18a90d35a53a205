# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a take: found in the cache, waited for where another process makes it, or run on a server.  No Blender in
here.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..client.client import FRAMES
from ..client.files import holds, write_whole
from ..client.leases import Requester
from ..client.take import JobOutcome, Log, run_job
from ..errors import JobCancelled, StorageError, TransportError
from ..protocol.png import blob_sha, decode_png, encode_png
from ..tracking.framing import crop_and_resize
from .cache import LAYOUT, Take, TakeRequest, array_sha, find_take, read_json, take_of
from .drive import is_leaving

LOGGER = logging.getLogger(__name__)
WAIT_S = 0.2
"""Seconds between two looks at the lease of somebody who makes the same take."""
LEASE_DIGITS = 16


def run_take(
    request: TakeRequest,
    server: str,
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    timeout_s: float = 30.0,
) -> Take:
    """Find the take of ``request`` or have ``server`` make it; blocks, needs no Blender, any thread.

    Of several processes with one cache one makes it and the others wait; one that is stopped withdraws itself only.
    ``on_event`` gets the events of `client.take.run_job`.  ``should_stop`` is asked as often as `run_job` asks it, and
    between two frames of what follows.  Raises whatever `run_job` raises, `JobCancelled`, and `StorageError`.
    """
    found = find_take(request)
    if found is not None:
        return found
    run = _TakeRun(request, server, on_event, should_stop, timeout_s)
    with Requester(request.folder.parents[1] / "leases", request.job_key[:LEASE_DIGITS]) as requester:
        told = False
        while (lease := requester.lead()) is None:
            _check_stop(should_stop)
            if not told and on_event is not None:
                on_event(Log("Another process makes this take; waiting for it."))
            told = True
            time.sleep(WAIT_S)
        with lease:
            return find_take(request) or run.make(requester)


class _TakeRun:
    """The making of a take by the one who leads."""

    def __init__(self, request: TakeRequest, server: str, on_event, should_stop, timeout_s: float):
        self.request = request
        self.server = server
        self.on_event = on_event
        self.should_stop = should_stop
        self.timeout_s = timeout_s

    def make(self, requester: Requester) -> Take:
        request, started = self.request, time.perf_counter()
        # 1. The model's frames: from a take of the same job at another render size, or from the server.
        outcome = _frames_of_another_size(request) or self._run(requester)
        if isinstance(outcome, Take):
            return outcome
        received = time.perf_counter()
        # 2. The shot's frames.
        names = [f"{index + 1:04d}.png" for index in range(len(request.plan.frames))]
        _write_frames(request, outcome, names, self.should_stop)
        # 3. What they were made from.
        for name, frame in zip(names, request.job.tracking_video, strict=False):
            _check_stop(self.should_stop)
            write_whole(request.folder / "tracking" / name, encode_png(frame))
        write_whole(request.folder / "first_frame.png", request.job.first_frame_png)
        # 4. take.json, which makes it a take.
        timings = dict(request.timings)
        timings["job"] = received - started
        timings["frames"] = time.perf_counter() - received
        timings.update({f"job.{name}": seconds for name, seconds in outcome.timings.items()})
        timings["take"] = time.perf_counter() - started
        said = _description(request, outcome, names, timings)
        write_whole(request.folder / "take.json", json.dumps(said, indent=1, sort_keys=True).encode())
        (request.folder / "job.json").unlink(missing_ok=True)
        return take_of(request.folder, said, cached=False)

    def _run(self, requester: Requester) -> JobOutcome | Take:
        """The job's outcome; the take itself where somebody else has made it in the meantime.

        Processes that know nothing of each other's leases (another machine that was silent, a cache that cannot hold
        them) may share a job: one acknowledges it before the other has its frames, or cancels it.
        """
        for is_last in (False, False, True):
            try:
                return self._run_once(requester)
            except StorageError as error:
                if is_last or error.field != FRAMES:
                    raise
                LOGGER.warning("take %s: %s", self.request.key, error.message)
            except _Withdrawn as error:
                if is_last:
                    raise error.__cause__ from None
                LOGGER.info("take %s: another process cancelled the job; submitting it again", self.request.key)
            found = find_take(self.request)
            if found is not None:
                return found
        raise AssertionError("the last round returns or raises")

    def _run_once(self, requester: Requester) -> JobOutcome:
        """Run the job under an id that a second try after a crash or a lost server finds again."""
        note, server = self.request.folder / "job.json", self.server
        known = read_json(note) or {}
        job_id = known.get("job_id") if known.get("server") == server else None
        job_id = job_id or uuid.uuid4().hex
        write_whole(note, json.dumps({"job_id": job_id, "server": server}).encode())
        left: list[bool] = []

        def stop_asked() -> bool:
            if self.should_stop is None or not self.should_stop():
                return False
            if not left:
                # Whoever leads next goes on with the job; so does the server when we only leave.
                left.append(requester.others_wait() or is_leaving())
            if not left[0]:
                # At once, not when the server has agreed: the next take must not go on with a job that is being
                # cancelled.
                _drop_note(note, job_id)
            return True

        try:
            return run_job(
                server,
                self.request.job,
                self.request.folder / "model",
                on_event=self.on_event,
                should_stop=stop_asked,
                job_id=job_id,
                timeout_s=self.timeout_s,
                leaves_running=lambda: left == [True],
            )
        except JobCancelled as error:
            if not left and (read_json(note) or {}).get("job_id") != job_id:
                raise _Withdrawn from error
            if left != [True]:
                _drop_note(note, job_id)
            raise
        except BaseException as error:
            # The id is kept while the server may go on with the job, or has done it and our disk could not take its
            # frames.
            if not isinstance(error, TransportError) and not _is_of_our_disk(error):
                _drop_note(note, job_id)
            raise


class _Withdrawn(Exception):
    """Somebody else has cancelled the job that we share; its cause is what the server said."""


def _drop_note(note: Path, job_id: str) -> None:
    """Forget that ``job_id`` runs, unless the note is another job's by now."""
    if (read_json(note) or {}).get("job_id") == job_id:
        note.unlink(missing_ok=True)


def _is_of_our_disk(error: BaseException) -> bool:
    """Whether ``error`` is a refusal of this machine's disk (`write_whole`), not one that the server reports."""
    return isinstance(error, StorageError) and isinstance(error.__cause__, OSError)


def _check_stop(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise JobCancelled("The take was cancelled.")


def _frames_of_another_size(request: TakeRequest) -> JobOutcome | None:
    """The model's frames out of a take of the same job, the folder of ``request`` itself included."""
    for path in sorted(request.folder.parent.glob("*/take.json")):
        said = read_json(path)
        if said is None or said.get("layout") != LAYOUT or said.get("job_key") != request.job_key:
            continue
        names = [f"model/{index + 1:04d}.png" for index in range(len(request.plan.frames))]
        files = said.get("files", {})
        if not all(name in files and holds(path.parent / name, files[name]) for name in names):
            continue
        for name in names:
            if path.parent != request.folder:
                write_whole(request.folder / name, (path.parent / name).read_bytes())
        LOGGER.info("take %s: the model's frames come from %s", request.key, path.parent)
        frames = [request.folder / name for name in names]
        return JobOutcome(said["job_id"], frames, said["report"].get("job", {}), [], {})
    return None


def _write_frames(request: TakeRequest, outcome: JobOutcome, names: list[str], should_stop) -> None:
    """Crop and resize the model's frames into the shot's, one at a time."""
    framing = request.plan.framing
    for path, name in zip(outcome.frames, names, strict=True):
        _check_stop(should_stop)
        png = path.read_bytes()
        if not framing.is_exact:
            pixels = decode_png(png, name=f"The frame {path}", error=StorageError)
            png = encode_png(crop_and_resize(pixels[None], framing)[0])
        write_whole(request.folder / "frames" / name, png)


def _description(request: TakeRequest, outcome: JobOutcome, names: list[str], timings: dict[str, float]) -> dict:
    plan, spec = request.plan, request.job.spec
    kept = [f"{part}/{name}" for part in ("frames", "model", "tracking") for name in names] + ["first_frame.png"]
    files = {name: blob_sha((request.folder / name).read_bytes()) for name in kept}
    return {
        "layout": LAYOUT,
        "key": request.key,
        "job_key": request.job_key,
        "job_id": outcome.job_id,
        "frame_numbers": list(plan.frames),
        "files": files,
        "report": {
            **{name: value for name, value in asdict(spec).items() if name != "options"},
            "options": spec.options,
            "frame_numbers": list(plan.frames),
            "render_size": list(plan.render_size),
            "model_size": list(plan.model_size),
            "crop": list(plan.framing.crop),
            "notes": list(plan.notes),
            "first_frame_sha256": blob_sha(request.job.first_frame_png),
            "tracking_video_sha256": array_sha(request.job.tracking_video),
            "job": outcome.report,
        },
        "timings": timings,
    }
