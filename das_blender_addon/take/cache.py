# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes on disk: a finished result under a key made of everything that decides its pixels.  No Blender in here.

    <shot folder>/takes/<key>/
        take.json        written last: what was asked, what the server reported, and the SHA-256 of every other file
        frames/0001.png  the shot's frames at the render size
        coverage/0001.png    where they show a surface: their alpha where the film is transparent
        model/0001.png   the model's frames: as received, joined where there are several windows, and composed from
                         their neighbours where the model made only every nth
        windows/01/0001.png …    the frames of each of several windows, or of every nth frame, as received
        tracking/0001.png, first_frame.png    what they were made from
    <shot folder>/leases/    who makes a take now, and who waits for it (`client.leases`)

A take counts only when every file has the SHA-256 that take.json says; anything damaged or empty is made anew.  The job
goes by an id made of what it asks for: whoever wants the same, now or after a crash, shares it (`client.take.run_job`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..client.files import holds
from ..client.take import JobRequest
from ..errors import FirstFrameError, SettingsError
from ..protocol.messages import JobSpec, ModelCapability
from ..protocol.png import blob_sha, decode_png_with_alpha, encode_png
from ..shot.picture_bytes import check_first_frame, read_first_frame
from ..shot.pictures import GIVEN, FirstFrame
from ..shot.plan import ShotPlan
from ..shot.tracked import ShotTracking
from ..shot.windows import Window
from .anew import put_back
from .detail import KeyPicture, for_model
from .job_options import job_options
from .shared_detail import SharedDetail

LOGGER = logging.getLogger(__name__)
LAYOUT = 2
"""Version of take.json."""
COMPOSITION, BETWEEN, FINE_DETAIL = 8, 2, 1
"""Versions of how frames are composed from key pictures, from the model's beside them, and from the fine detail of key
pictures: another one makes takes anew.
"""


@dataclass(frozen=True)
class TakeSettings:
    """What the artist chooses.  0, 0.0 and "" stand for the model's defaults of steps, guidance and tracking range,
    and for the server's of ``speed``.

    ``window_seeds``: (number from 1 on, seed) of windows that have a seed of their own.  ``loras``: (name, weight) of
    each adapter.
    ``prompts_at``: (Blender frame, prompt from there on), see `prompt_at`.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    num_inference_steps: int = 0
    guidance_scale: float = 0.0
    tracking_range: str = ""
    window_seeds: tuple[tuple[int, int], ...] = ()
    loras: tuple[tuple[str, float], ...] = ()
    speed: str = ""
    prompts_at: tuple[tuple[int, str], ...] = ()

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
            window_seeds=resolved.window_seeds,
            loras=resolved.loras,
            speed=resolved.speed,
            prompts_at=resolved.prompts_at,
        )

    def seed_of(self, number: int) -> int:
        """That of the window ``number``, from 0 on."""
        return int(dict(self.window_seeds).get(number + 1, self.seed))

    def prompt_at(self, frame: int) -> str:
        """The prompt of a window that begins at the Blender frame ``frame``."""
        said = [words for at, words in self.prompts_at if at <= frame]
        return (said[-1] if said else "") or self.prompt


@dataclass(frozen=True)
class Take:
    """A finished take.

    ``frames``: one PNG per frame of the shot, at the render size; ``model_frames`` and ``tracking_frames``: the same
    at the model's size.  ``coverage``: a grey PNG per frame at the render size, how much of each pixel shows a surface;
    none in a take that has that at the model's size only.  ``frame_numbers``: their Blender frames.  ``report``: what
    decided the pixels and what the server says of the job.  ``timings``: seconds per station of its making.
    ``cached``: nothing had to be rendered.
    """

    key: str
    folder: Path
    frames: tuple[Path, ...]
    model_frames: tuple[Path, ...]
    tracking_frames: tuple[Path, ...]
    coverage: tuple[Path, ...]
    first_frame: Path
    frame_numbers: tuple[int, ...]
    job_id: str
    report: dict
    timings: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class TakeRequest:
    """A take to make or to find.  ``key`` names it, ``job_key`` what the server makes of it.

    ``pictures``: those at ``plan.keys``.  ``first_frame_png``: the first of them as the model is given it.
    ``detail``: what composes frames from them; None where neither the model nor the take needs that.
    """

    key: str
    job_key: str
    folder: Path
    shot: ShotTracking
    settings: TakeSettings
    pictures: tuple[KeyPicture, ...]
    first_frame_png: bytes
    detail: SharedDetail | None
    timings: dict[str, float]

    @property
    def plan(self) -> ShotPlan:
        return self.shot.plan

    @property
    def job(self) -> JobRequest:
        """The job of the first window."""
        return self.window_job(0)

    def follows(self, number: int) -> bool:
        """Whether the window ``number`` begins with a frame of the window before, because no picture shows it."""
        return not self.plan.reads_carried and self.plan.made[self.plan.windows[number].start] not in self.plan.keys

    def window_job(
        self,
        number: int,
        before: bytes = b"",
        *,
        progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> JobRequest:
        """The job of the window ``number`` (from 0).  ``before``: PNG of its first frame as the window before made it,
        where it `follows`.
        """
        plan, window = self.plan, self.plan.windows[number]
        carried = holes = None
        if plan.reads_carried and self.detail is not None:
            seen = self.detail.carried_with_alpha(plan.held_in(window), progress=progress, should_stop=should_stop)
            carried, holes = np.ascontiguousarray(seen[..., :3]), 255 - seen[..., 3]
        begin = plan.made[window.start]
        if begin in plan.keys:
            png = self._picture_for_model(plan.keys.index(begin))
        else:
            png = before if carried is None else encode_png(carried[0])
        return JobRequest(
            spec=job_spec(plan, self.settings, window),
            tracking_video=self.shot.videos[number].video[window.held - window.start],
            first_frame_png=png,
            carried_video=carried,
            carried_holes=holes if plan.reads_holes else None,
            references=self._references(window),
        )

    def _references(self, window: Window) -> np.ndarray | None:
        """[K,H,W,3] u8: key pictures that the clip of ``window`` does not hold, white where nobody painted."""
        shown = [for_model(self.pictures[self.plan.keys.index(key)].pixels, self.plan)
                 for key in self.plan.references_for(window)]  # fmt: skip
        return np.stack([over_white(picture) for picture in shown]) if shown else None

    def _picture_for_model(self, place: int) -> bytes:
        return self.first_frame_png if place == 0 else _for_model(self.pictures[place], self.plan)


# ── What to ask for ─────────────────────────────────────────────────────────────────────────────────────────────────


def take_request(
    shot: ShotTracking,
    first_frame: FirstFrame | Path,
    settings: TakeSettings,
    shot_folder: Path,
    *,
    keys: Sequence[FirstFrame | Path] = (),
) -> TakeRequest:
    """The take of ``shot`` with ``first_frame`` and the other key pictures ``keys`` (PNGs of the plan's picture size)
    and ``settings``, to be kept in ``shot_folder``.

    What `ensure_first_frame` read is sent as it was read, whatever has become of its file.
    Tracking videos are padded to the model's window by holding their last frame.  Raises `SettingsError` (a value that
    the model does not take, another number of pictures) and `FirstFrameError`.
    """
    plan = shot.plan
    if len(keys) + 1 != len(plan.keys):
        frames = ", ".join(str(plan.frames[key]) for key in plan.keys)
        raise SettingsError(
            f"There are {len(keys) + 1} key pictures, and the plan has one at each of the frames {frames}: give as "
            "many, the first frame's first.",
            field="key_pictures",
        )
    _check_windows(plan, settings)
    pictures = tuple(
        _key_picture(index, picture, plan) for index, picture in zip(plan.keys, (first_frame, *keys), strict=True)
    )
    detail = None
    if plan.keeps_detail or plan.reads_carried or plan.between:
        if shot.geometry is None:
            raise SettingsError("The shot has no geometry to carry its pictures along with; export it again.")
        detail = SharedDetail(shot.geometry, plan, pictures)
    specs = [asdict(job_spec(plan, settings, window)) for window in plan.windows]
    first_frame_png = _for_model(pictures[0], plan)
    decides = [blob_sha(first_frame_png), json.dumps(specs, sort_keys=True)]
    decides += [array_sha(video.video) for video in shot.videos]
    if len(pictures) > 1 or plan.keeps_detail:
        decides.append(json.dumps([(picture.index, blob_sha(picture.png)) for picture in pictures]))
    if detail is not None:
        decides.append(shot.digest)
    if plan.between:
        decides.append(json.dumps(["model frames", plan.made, BETWEEN]))
    job_key = _digest(*decides)
    made_of = [plan.render_size, plan.framing.crop, plan.keeps_detail, COMPOSITION]
    if plan.transparent_film:
        made_of.append("alpha")
    if plan.fine_only:
        made_of += ["fine", FINE_DETAIL]
    key = _digest(job_key, json.dumps(made_of))
    return TakeRequest(
        key=key,
        job_key=job_key,
        folder=Path(shot_folder) / "takes" / key,
        shot=shot,
        settings=settings,
        pictures=pictures,
        first_frame_png=first_frame_png,
        detail=detail,
        timings=dict(shot.timings),
    )


def _check_windows(plan: ShotPlan, settings: TakeSettings) -> None:
    beyond = next((number for number, _ in settings.window_seeds if number > len(plan.windows)), None)
    if beyond is not None:
        raise SettingsError(
            f"There is no window {beyond} to have a seed of its own: the shot has {len(plan.windows)}.",
            field="window_seeds",
        )


def _key_picture(index: int, picture: FirstFrame | Path, plan: ShotPlan) -> KeyPicture:
    if isinstance(picture, FirstFrame):
        png, path = check_first_frame(picture.png, picture.path, plan.picture_size), picture.path
        origin = picture.origin
    else:
        png, path, origin = read_first_frame(picture, plan.picture_size), picture, GIVEN
    pixels = decode_png_with_alpha(png, name=f"The picture {path}", error=FirstFrameError)
    return KeyPicture(index, pixels, png, origin)


def _for_model(picture: KeyPicture, plan: ShotPlan) -> bytes:
    """The PNG that the model is given of ``picture``; one that has its size already as it is."""
    if plan.pictures == plan.framing and picture.pixels.shape[2] == 3:
        return picture.png
    return encode_png(np.ascontiguousarray(for_model(picture.pixels, plan)[..., :3]))


def job_key(job: JobRequest) -> str:
    """Digest of all that decides what a server makes of ``job``."""
    carried = "" if job.carried_video is None else array_sha(job.carried_video)
    spec = json.dumps(asdict(job.spec), sort_keys=True)
    more = [f"{name} {array_sha(array)}" for name, array in (("holes", job.carried_holes),
            ("references", job.references)) if array is not None]  # fmt: skip
    return _digest(blob_sha(job.first_frame_png), array_sha(job.tracking_video), carried, spec, *more)


def over_white(picture: np.ndarray) -> np.ndarray:
    """[H,W,3 or 4] u8 → [H,W,3] u8: ``picture`` on white."""
    if picture.shape[2] == 3:
        return picture
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def job_spec(plan: ShotPlan, settings: TakeSettings, window: Window | None = None) -> JobSpec:
    """The job of one window of a planned shot, of the first where none is named.

    Raises `SettingsError` for a step count, tracking range, adapter or speed that the model does not take.
    """
    model: ModelCapability = plan.model
    window = window or plan.windows[0]
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
        prompt=settings.prompt_at(plan.frames[plan.made[window.start]]),
        negative_prompt=settings.negative_prompt,
        seed=settings.seed_of(plan.windows.index(window)),
        num_inference_steps=int(steps),
        guidance_scale=float(settings.guidance_scale or model.default_guidance),
        num_frames=window.length,
        kept_frames=window.count,
        width=plan.model_size[0],
        height=plan.model_size[1],
        tracking_range=tracking_range,
        options=job_options(model, settings.loras, settings.speed),
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
        for path in (*take.frames, *take.model_frames, *take.tracking_frames, *take.coverage, take.first_frame):
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
        coverage=paths("coverage") if "coverage/0001.png" in said["files"] else (),
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
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
