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
from dataclasses import asdict, replace
from pathlib import Path

from ..client.files import holds, write_whole
from ..client.leases import Requester
from ..client.take import JobOutcome, Log, run_job
from ..errors import JobCancelled, StorageError
from ..protocol.png import blob_sha, decode_png, encode_png
from ..tracking.framing import crop_and_resize
from .anew import beside
from .cache import LAYOUT, Take, TakeRequest, array_sha, find_take, read_json, take_of
from .drive import is_leaving

LOGGER = logging.getLogger(__name__)
WAIT_S = 0.2
"""Seconds between two looks at the lease of somebody who makes the same take."""
LEASE_DIGITS, JOB_ID_DIGITS = 16, 32


def run_take(
    request: TakeRequest,
    server: str,
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    anew: bool = False,
    lease_s: float = 0.0,
    timeout_s: float = 30.0,
) -> Take:
    """Find the take of ``request`` or have ``server`` make it; blocks, needs no Blender, any thread.

    Of several processes with one cache one makes it and the others wait; one that is stopped withdraws itself only.
    Without a cache in common they share the job on the server, whose id is made of what it asks for.  ``anew``: have it
    made although it is there, by a job of its own; the new one takes the old one's place when it is whole.
    ``on_event`` gets the events of `client.take.run_job`.  ``should_stop`` is asked as often as `run_job` asks it, and
    between two frames of what follows.  ``lease_s``: see `run_job`.  Raises whatever `run_job` raises, `JobCancelled`,
    and `StorageError`.
    """
    others_wait: list[Callable[[], bool]] = []

    def run(made: TakeRequest, job_id: str) -> JobOutcome:
        return run_job(
            server,
            request.job,
            made.folder / "model",
            on_event=on_event,
            should_stop=should_stop,
            job_id=job_id,
            lease_s=lease_s,
            timeout_s=timeout_s,
            # Whoever leads next goes on with the job; so does the server when this Blender only leaves.
            leaves_running=lambda: is_leaving() or any(wait() for wait in others_wait),
        )

    if anew:
        with beside(request.folder) as folder:
            said = _make(replace(request, folder=folder), run, uuid.uuid4().hex, should_stop, anew=True)
        return take_of(request.folder, said, cached=False)
    found = find_take(request)
    if found is not None:
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
            said = _make(request, run, request.job_key[:JOB_ID_DIGITS], should_stop)
            return take_of(request.folder, said, cached=False)


def _make(
    request: TakeRequest,
    run: Callable[[TakeRequest, str], JobOutcome],
    job_id: str,
    should_stop: Callable[[], bool] | None,
    *,
    anew: bool = False,
) -> dict:
    """Make the take of ``request`` out of the model's frames → what take.json says."""
    started = time.perf_counter()
    # 1. The model's frames: from a take of the same job at another render size, or from the server.
    outcome = (None if anew else _frames_of_another_size(request)) or run(request, job_id)
    received = time.perf_counter()
    # 2. The shot's frames.
    names = [f"{index + 1:04d}.png" for index in range(len(request.plan.frames))]
    _write_frames(request, outcome, names, should_stop)
    # 3. What they were made from.
    for name, frame in zip(names, request.job.tracking_video, strict=False):
        _check_stop(should_stop)
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
    return said


def _check_stop(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise JobCancelled("The take was cancelled.")


def _frames_of_another_size(request: TakeRequest) -> JobOutcome | None:
    """The model's frames out of a take of the same job, the folder of ``request`` itself included."""
    for path in sorted(request.folder.parent.glob("*/take.json"), key=_age_s):  # one that was made anew goes first
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


def _age_s(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


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
