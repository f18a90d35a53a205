# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server has made of a take's windows, and what the take says of it.  No Blender in here."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ..client.take import JobOutcome, JobRequest
from ..errors import StorageError
from ..protocol.png import blob_sha, decode_png
from ..shot.plan import BLACK, SKY, ShotPlan
from .cache import LAYOUT, TakeRequest, array_sha


@dataclass(frozen=True)
class Made:
    """What a server has made of a window: ``part`` of the take's folder holds it."""

    number: int
    part: str
    key: str
    job: JobRequest
    outcome: JobOutcome


def frame_of(made: Made, number: int, plan: ShotPlan) -> bytes:
    """The first frame of the window ``number`` as the window before made it."""
    return bytes_of(made, plan.windows[number].start - plan.windows[made.number].start)


def bytes_of(made: Made, place: int) -> bytes:
    """The PNG at ``place`` among its frames."""
    return made.outcome.frames[place].read_bytes()


def pixels(png: bytes) -> np.ndarray:
    """[H,W,3] u8 of one of them.  Raises `StorageError`."""
    return decode_png(png, name="A frame of the model", error=StorageError)


def description(request: TakeRequest, made: list[Made], names: list[str], timings: dict[str, float]) -> dict:
    """What `take.json` says of the take of ``request``, whose frames are called ``names``."""
    plan, spec = request.plan, made[0].job.spec
    parts = {one.part: [path.name for path in one.outcome.frames] for one in made}
    parts |= {part: names for part in ("frames", "model", "tracking")}
    if plan.keeps_detail or plan.transparent_film:
        parts["coverage"] = names
    kept = [f"{part}/{name}" for part, held in sorted(parts.items()) for name in held] + ["first_frame.png"]
    files = {name: blob_sha((request.folder / name).read_bytes()) for name in kept}
    return {
        "layout": LAYOUT,
        "key": request.key,
        "job_key": request.job_key,
        "job_id": made[0].outcome.job_id,
        "frame_numbers": list(plan.frames),
        "files": files,
        "windows": [
            {
                "job_key": one.key,
                "job_id": one.outcome.job_id,
                "part": one.part,
                "frames": [plan.frames[plan.made_in(plan.windows[one.number])[end]] for end in (0, -1)],
                "report": one.outcome.report,
            }
            for one in made
        ],
        "report": {
            **{name: value for name, value in asdict(spec).items() if name != "options"},
            "seed": request.settings.seed,
            "window_seeds": {str(number): seed for number, seed in request.settings.window_seeds},
            "options": spec.options,
            "frame_numbers": list(plan.frames),
            **_prompts(request),
            "render_size": list(plan.render_size),
            "model_size": list(plan.model_size),
            "crop": list(plan.framing.crop),
            "notes": list(plan.notes),
            "findings": [asdict(finding) for finding in request.shot.findings],
            "background": SKY if plan.sky else BLACK,
            "keep_detail": plan.keeps_detail,
            "fine_detail_only": plan.fine_only,
            "model_frames_every": plan.every,
            "model_frame_numbers": [plan.frames[index] for index in plan.made],
            **_cameras(request),
            "key_pictures": [
                {"frame": plan.frames[picture.index], "sha256": blob_sha(picture.png), "origin": picture.origin}
                for picture in request.pictures
            ],
            "first_frame_sha256": blob_sha(request.first_frame_png),
            "tracking_video_sha256": array_sha(made[0].job.tracking_video),
            "job": made[0].outcome.report,
        },
        "timings": timings,
    }


def _cameras(request: TakeRequest) -> dict:
    """(frame, name of the camera from there on), and what these see; nothing where nobody said."""
    shot = request.shot
    if not shot.seen_by:
        return {}
    return {"cameras": [list(one) for one in shot.seen_by], "camera_path_sha256": shot.camera_path}


def _prompts(request: TakeRequest) -> dict:
    """The shot's own prompt and those from markers on, where there are any."""
    settings = request.settings
    if not settings.prompts_at:
        return {}
    return {"prompt": settings.prompt, "prompts_at": [list(one) for one in settings.prompts_at]}
