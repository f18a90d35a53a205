# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes on disk: a finished result under a key made of everything that decides its pixels.  No Blender in here.

    <shot folder>/takes/<key>/
        take.json        written last: what was asked, what the server reported, and the SHA-256 of every other file
        frames/0001.png  the shot's frames at the render size
        model/0001.png   the model's frames as received
        tracking/0001.png, first_frame.png    what they were made from
        job.json         while a job runs: its id, so that an interrupted take goes on with the same job

A take counts only when every file has the SHA-256 that take.json says; anything damaged or empty is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..client.files import holds, write_whole
from ..client.take import JobOutcome, JobRequest, run_job
from ..errors import JobCancelled, SettingsError, StorageError, TransportError
from ..protocol.messages import JobSpec, ModelCapability
from ..protocol.png import blob_sha, decode_png, encode_png
from ..shot.pictures import FirstFrame, check_first_frame, read_first_frame
from ..shot.plan import ShotPlan, ShotTracking
from ..tracking.framing import crop_and_resize

LOGGER = logging.getLogger(__name__)
LAYOUT = 1
"""Version of take.json."""


@dataclass(frozen=True)
class TakeSettings:
    """What the artist chooses.  0, 0.0 and "" stand for the model's defaults of steps, guidance and tracking range.

    ``compose``: carry the first frame's own pixels along where they are visible, with models that can.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int = 0
    guidance_scale: float = 0.0
    tracking_range: str = ""
    compose: bool = True

    @classmethod
    def from_resolved(cls, resolved) -> TakeSettings:
        """The part of `properties.ResolvedSettings` that a take is made of."""
        return cls(
            prompt=resolved.prompt,
            negative_prompt=resolved.negative_prompt,
            seed=resolved.seed,
            num_inference_steps=resolved.steps,
            guidance_scale=resolved.guidance,
            tracking_range=resolved.tracking_range,
            compose=resolved.compose,
        )


@dataclass(frozen=True)
class Take:
    """A finished take.

    ``frames``: one PNG per frame of the shot, at the render size; ``model_frames`` and ``tracking_frames``: the same
    at the model's size.  ``frame_numbers``: their Blender frames.  ``report``: what decided the pixels and what the
    server says of the job.  ``timings``: seconds per station of its making.  ``cached``: nothing had to be rendered.
    """

    key: str
    folder: Path
    frames: tuple[Path, ...]
    model_frames: tuple[Path, ...]
    tracking_frames: tuple[Path, ...]
    first_frame: Path
    frame_numbers: tuple[int, ...]
    job_id: str
    report: dict
    timings: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class TakeRequest:
    """A take to make or to find.  ``key`` names it, ``job_key`` what the server makes of it (any render size)."""

    key: str
    job_key: str
    folder: Path
    plan: ShotPlan
    job: JobRequest
    timings: dict[str, float]


# ── What to ask for ─────────────────────────────────────────────────────────────────────────────────────────────────


def take_request(
    shot: ShotTracking, first_frame: FirstFrame | Path, settings: TakeSettings, shot_folder: Path
) -> TakeRequest:
    """The take of ``shot`` with ``first_frame`` (a PNG of the model's size) and ``settings``, to be kept in
    ``shot_folder``.

    What `ensure_first_frame` read is sent as it was read, whatever has become of its file.

    The tracking video is padded to the model's window by holding its last frame.  Raises `SettingsError` (a value that
    the model does not take) and `FirstFrameError`.
    """
    plan, tracking = shot.plan, shot.tracking
    if isinstance(first_frame, FirstFrame):
        png = check_first_frame(first_frame.png, first_frame.path, plan.model_size)
    else:
        png = read_first_frame(first_frame, plan.model_size)
    spec = job_spec(plan, settings)
    held = np.minimum(np.arange(plan.window), len(plan.frames) - 1)
    wants_correspondences = "first_frame_xy" in plan.model.inputs
    job = JobRequest(
        spec=spec,
        tracking_video=tracking.video[held],
        first_frame_png=png,
        first_frame_xy=tracking.first_frame_xy[held] if wants_correspondences else None,
        first_frame_visible=tracking.first_frame_visible[held] if wants_correspondences else None,
    )
    job_key = _digest(blob_sha(png), _array_sha(job.tracking_video), json.dumps(asdict(spec), sort_keys=True))
    key = _digest(job_key, json.dumps([plan.render_size, plan.framing.crop]))
    return TakeRequest(key, job_key, Path(shot_folder) / "takes" / key, plan, job, dict(shot.timings))


def job_spec(plan: ShotPlan, settings: TakeSettings) -> JobSpec:
    """The job of a planned shot.  Raises `SettingsError` for a step count or tracking range that the model does not
    take.
    """
    model: ModelCapability = plan.model
    steps = settings.num_inference_steps or model.default_steps
    if model.exact_steps and steps not in model.exact_steps:
        raise SettingsError(
            f"The model {model.name!r} does not take {steps} steps; it takes {', '.join(map(str, model.exact_steps))}.",
            field="num_inference_steps",
        )
    tracking_range = settings.tracking_range or model.default_tracking_range
    if tracking_range not in ("signed", "unit"):
        raise SettingsError(f"The tracking range is {tracking_range!r}; use signed or unit.", field="tracking_range")
    return JobSpec(
        task="mesh_to_video",
        model=model.name,
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        seed=int(settings.seed),
        num_inference_steps=int(steps),
        guidance_scale=float(settings.guidance_scale or model.default_guidance),
        num_frames=plan.window,
        kept_frames=len(plan.frames),
        width=plan.model_size[0],
        height=plan.model_size[1],
        tracking_range=tracking_range,
        options={"compose": bool(settings.compose)} if "first_frame_xy" in model.inputs else {},
    )


def _array_sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# ── Finding and making ──────────────────────────────────────────────────────────────────────────────────────────────


def find_take(request: TakeRequest) -> Take | None:
    """The finished take of ``request`` when it is on disk, whole, and every file of it is as it was written."""
    return load_take(request.folder)


def load_take(folder: Path) -> Take | None:
    """The take in ``folder``; None when there is none or a file of it is missing or damaged."""
    said = _read_json(folder / "take.json")
    if said is None or said.get("layout") != LAYOUT or said.get("key") != folder.name:
        return None
    try:
        take = _take(folder, said, cached=True)
        for path in (*take.frames, *take.model_frames, *take.tracking_frames, take.first_frame):
            if not holds(path, said["files"][path.relative_to(folder).as_posix()]):
                LOGGER.warning("the take %s is damaged: %s is not what it was", take.key, path)
                return None
        return take
    except (KeyError, TypeError, AttributeError):
        return None


def run_take(
    request: TakeRequest,
    server: str,
    *,
    on_event: Callable[[object], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    timeout_s: float = 30.0,
) -> Take:
    """Find the take of ``request`` or have ``server`` make it; blocks, needs no Blender, any thread.

    ``on_event`` gets the events of `client.take.run_job`.  ``should_stop`` is asked as often as `run_job` asks it, and
    between two frames of what follows.  Raises whatever `run_job` raises, `JobCancelled`, and `StorageError`.
    """
    began = time.perf_counter()
    found = find_take(request)
    if found is not None:
        return found
    started = time.perf_counter()
    # 1. The model's frames: from a take of the same job at another render size, or from the server.
    outcome = _frames_of_another_size(request) or _run(request, server, on_event, should_stop, timeout_s)
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
    timings["take"] = time.perf_counter() - began
    said = _description(request, outcome, names, timings)
    write_whole(request.folder / "take.json", json.dumps(said, indent=1, sort_keys=True).encode())
    (request.folder / "job.json").unlink(missing_ok=True)
    return _take(request.folder, said, cached=False)


def _run(request: TakeRequest, server: str, on_event, should_stop, timeout_s: float) -> JobOutcome:
    """Run the job under an id that a second try after a crash or a lost server finds again."""
    note = request.folder / "job.json"
    known = _read_json(note) or {}
    job_id = known.get("job_id") if known.get("server") == server else None
    job_id = job_id or uuid.uuid4().hex
    write_whole(note, json.dumps({"job_id": job_id, "server": server}).encode())

    def stop_asked() -> bool:
        if should_stop is None or not should_stop():
            return False
        # At once, not when the server has agreed: the next take must not go on with a job that is being cancelled.
        _drop_note(note, job_id)
        return True

    try:
        return run_job(
            server,
            request.job,
            request.folder / "model",
            on_event=on_event,
            should_stop=stop_asked,
            job_id=job_id,
            timeout_s=timeout_s,
        )
    except BaseException as error:
        # The id is kept while the server may go on with the job, or has done it and our disk could not take its frames.
        if not isinstance(error, TransportError) and not _is_of_our_disk(error):
            _drop_note(note, job_id)
        raise


def _drop_note(note: Path, job_id: str) -> None:
    """Forget that ``job_id`` runs, unless the note is another job's by now."""
    if (_read_json(note) or {}).get("job_id") == job_id:
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
        said = _read_json(path)
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
            "tracking_video_sha256": _array_sha(request.job.tracking_video),
            "job": outcome.report,
        },
        "timings": timings,
    }


def _take(folder: Path, said: dict, *, cached: bool) -> Take:
    def paths(part: str) -> tuple[Path, ...]:
        return tuple(folder / part / f"{index + 1:04d}.png" for index in range(len(said["frame_numbers"])))

    return Take(
        key=said["key"],
        folder=folder,
        frames=paths("frames"),
        model_frames=paths("model"),
        tracking_frames=paths("tracking"),
        first_frame=folder / "first_frame.png",
        frame_numbers=tuple(said["frame_numbers"]),
        job_id=said["job_id"],
        report=dict(said["report"]),
        timings=dict(said["timings"]),
        cached=cached,
    )


def _read_json(path: Path) -> dict | None:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
