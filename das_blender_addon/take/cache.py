# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes on disk: a finished result under a key made of everything that decides its pixels.  No Blender in here.

    <shot folder>/takes/<key>/
        take.json        written last: what was asked, what the server reported, and the SHA-256 of every other file
        frames/0001.png  the shot's frames at the render size
        model/0001.png   the model's frames as received
        tracking/0001.png, first_frame.png    what they were made from
    <shot folder>/leases/    who makes a take now, and who waits for it (`client.leases`)

A take counts only when every file has the SHA-256 that take.json says; anything damaged or empty is made anew.  The job
goes by an id made of what it asks for: whoever wants the same, now or after a crash, shares it (`client.take.run_job`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..client.files import holds
from ..client.take import JobRequest
from ..errors import SettingsError
from ..protocol.messages import JobSpec, ModelCapability
from ..protocol.png import blob_sha
from ..shot.picture_check import check_first_frame, read_first_frame
from ..shot.pictures import FirstFrame
from ..shot.plan import ShotPlan, ShotTracking
from .anew import put_back

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
        """The part of `shot.resolved.ResolvedSettings` that a take is made of."""
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
    job_key = _digest(blob_sha(png), array_sha(job.tracking_video), json.dumps(asdict(spec), sort_keys=True))
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
        model_revision=model.revision,
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


def array_sha(array: np.ndarray) -> str:
    """SHA-256 (hex) of the numbers in ``array``."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# ── Finding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def find_take(request: TakeRequest) -> Take | None:
    """The finished take of ``request`` when it is on disk, whole, and every file of it is as it was written."""
    put_back(request.folder)
    return load_take(request.folder)


def load_take(folder: Path) -> Take | None:
    """The take in ``folder``; None when there is none or a file of it is missing or damaged."""
    said = read_json(folder / "take.json")
    if said is None or said.get("layout") != LAYOUT or said.get("key") != folder.name:
        return None
    try:
        take = take_of(folder, said, cached=True)
        for path in (*take.frames, *take.model_frames, *take.tracking_frames, take.first_frame):
            if not holds(path, said["files"][path.relative_to(folder).as_posix()]):
                LOGGER.warning("the take %s is damaged: %s is not what it was", take.key, path)
                return None
        return take
    except (KeyError, TypeError, AttributeError):
        return None


def take_of(folder: Path, said: dict, *, cached: bool) -> Take:
    """The `Take` that ``said``, the content of take.json, describes."""
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


def read_json(path: Path) -> dict | None:
    """The object in the file ``path``; None when there is none."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
