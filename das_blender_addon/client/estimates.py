# SPDX-License-Identifier: GPL-3.0-or-later
"""`estimate`: a picture or clip is measured on a server, which gives arrays.  `repaint`: a picture is painted anew.

Kinds, their parameters and their arrays (pixels: origin top left, centres at +0.5):

    tracks      clip     every=8                            tracks f32 [T,N,2] px, visible bool [T,N]
    cuts        clip                                        cuts i32 [K]: first frames after each cut, from 0;
                                                            difference f32 [T]
    mask        picture  box=[x,y,width,height], lasso=[[x,y],…] or points=[[x,y],…]; away=[[x,y],…] is not of it
                                                            mask bool [H,W]
    clip_mask   clip     of the first frame: as mask, or    masks bool [T,H,W]
                         mask=bool [H,W]
    salient     picture                                     mask bool [H,W]
    depth       picture, clip   lens_mm=0                   depth f32 [T,H,W], valid bool [T,H,W], lens_mm f32 [T],
                                                            meaning i32 []: a place in `DEPTH_MEANINGS`
    background  picture  mask=bool [H,W], radius=5          picture u8 [H,W,3]
    adherence   clip     prediction=u8 [T,H,W,3],           error f16 [T,H,W] px: how far what the prediction shows is
                         seen=bool [T,H,W]                  from where the clip shows it; NaN where that is not to be
                                                            told, infinite where it is not found again
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError, ProtocolError, SettingsError, StorageError
from ..protocol import codec, frames
from ..protocol.messages import Artefact, Capabilities, EstimatorCapability, Event, JobInput, JobSpec
from .client import DasClient
from .connection import ShouldStop
from .job_run import JobRun, OnEvent, carry_out

DEPTH_MEANINGS = ("metric", "relative", "inverse")
"""What values of a depth mean: metres; distances without a scale; 1 / distance without a scale."""

CLIP = "clip"


def estimators_of(server: str, *, timeout_s: float = 10.0) -> list[EstimatorCapability]:
    """All that the server at the address knows, installed or not; of each kind the default first.

    Raises `TransportError`.
    """
    with DasClient(server, timeout_s=timeout_s) as client:
        return client.hello().capabilities.estimators


def chosen(estimators: list[EstimatorCapability], kind: str, name: str = "") -> EstimatorCapability:
    """The estimator ``name``, or the default of the ``kind``.  Raises `ModelError` that says what to install."""
    of_kind = [one for one in estimators if one.kind == kind]
    if not of_kind:
        raise ModelError(f"The server measures no {kind}; install a newer release of das-server there.", field="model")
    if name and name not in [one.name for one in of_kind]:
        words = ", ".join(one.name for one in of_kind)
        raise ModelError(f"The server has no estimator {name!r} of the kind {kind}; it knows {words}.", field="model")
    usable = [one for one in of_kind if one.installed and name in ("", one.name)]
    if not usable:
        raise ModelError(" ".join(one.remedy for one in of_kind if name in ("", one.name)), field="model")
    return usable[0]


def estimate(
    server: str,
    kind: str,
    video: np.ndarray,
    *,
    estimator: str = "",
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
    timeout_s: float = 30.0,
    **parameters: Any,
) -> dict[str, np.ndarray]:
    """Measure ``video`` u8 [T,H,W,3] (sRGB-coded; a picture [H,W,3] has T = 1) on the server at the address; blocks.

    ``kind``, ``parameters`` and what is returned: see the head of this file; an array among the parameters is sent as
    one.  ``estimator``: by name, the server's default of the kind without one.  Calls ``on_event`` as
    `take.run_job` does.

    Raises `SettingsError` for a video that is none, `ModelError` where no estimator of the kind is installed (it says
    what to install), `JobRejected` for what cannot be measured, any `TransportError`, `JobCancelled`.
    """
    clip = _clip(video)
    arrays = {name: value for name, value in parameters.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in parameters.items() if name not in arrays and value is not None}
    spec = _spec("estimate", estimator, clip, options={"kind": kind, **options})
    return _measured(server, kind, spec, {CLIP: clip, **arrays}, on_event, should_stop, timeout_s)


def repaint(
    server: str,
    picture: np.ndarray,
    prompt: str,
    *,
    depth: np.ndarray | None = None,
    negative_prompt: str = "",
    seed: int = 0,
    steps: int = 0,
    guidance_scale: float = 0.0,
    strength: float = 0.75,
    model: str = "",
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
    timeout_s: float = 30.0,
) -> np.ndarray:
    """``picture`` u8 [H,W,3] painted anew by the words ``prompt`` → u8 [H,W,3] of the same size; blocks.

    ``depth`` f32 [H,W]: distances, 0 where there is none; what is painted keeps their shapes.  Without it, the edges of
    the picture do that.  ``strength`` 0 … 2: how strictly.  ``steps``, ``guidance_scale``: 0 for the model's own.

    Raises as `estimate` does.
    """
    clip = _clip(picture)
    options = {"strength": float(strength)}
    about = {"prompt": prompt, "negative_prompt": negative_prompt, "seed": seed}
    about |= {"num_inference_steps": steps, "guidance_scale": float(guidance_scale)}
    spec = _spec("repaint", model, clip, options=options, **about)
    arrays = {CLIP: clip} | ({} if depth is None else {"depth": np.asarray(depth, np.float32)})
    return _measured(server, "repaint", spec, arrays, on_event, should_stop, timeout_s)["picture"]


def _clip(video: np.ndarray) -> np.ndarray:
    clip = video[None] if isinstance(video, np.ndarray) and video.ndim == 3 else video
    if (
        not isinstance(clip, np.ndarray)
        or clip.ndim != 4
        or clip.shape[3] != 3
        or clip.dtype != np.uint8
        or 0 in clip.shape
    ):
        what = f"{list(clip.shape)} {clip.dtype}" if isinstance(clip, np.ndarray) else type(clip).__name__
        raise SettingsError(f"What is to be measured is {what}; give a picture [H,W,3] or a clip [T,H,W,3] of uint8.")
    return clip


def _spec(task: str, model: str, clip: np.ndarray, *, options: dict[str, Any], **changes: Any) -> JobSpec:
    num_frames, height, width = clip.shape[:3]
    values = {"prompt": "", "negative_prompt": "", "seed": 0, "num_inference_steps": 1, "guidance_scale": 0.0}
    size = {"num_frames": num_frames, "kept_frames": num_frames, "width": width, "height": height}
    return JobSpec(task=task, model=model, **{**values, **changes}, **size, options=options)


def _measured(
    server: str,
    kind: str,
    spec: JobSpec,
    arrays: dict[str, np.ndarray],
    on_event: OnEvent | None,
    should_stop: ShouldStop | None,
    timeout_s: float,
) -> dict[str, np.ndarray]:
    with DasClient(server, timeout_s=timeout_s) as client:
        name = chosen(client.hello(should_stop=should_stop).capabilities.estimators, kind, spec.model).name
    spec = JobSpec(**{**vars(spec), "model": name})
    return carry_out(
        server,
        spec,
        lambda capabilities: _inputs(arrays, capabilities),
        _collect,
        on_event=on_event,
        should_stop=should_stop,
        timeout_s=timeout_s,
    )


def _inputs(arrays: dict[str, np.ndarray], capabilities: Capabilities) -> tuple[dict[str, bytes], list[JobInput]]:
    blobs, inputs = {}, []
    usable = [name for name in ("zstd", "zlib") if name in frames.CODECS and name in capabilities.codecs]
    for role, array in arrays.items():
        blob, about = frames.encode_array(array, usable[0] if usable else "raw")
        sha = frames.blob_sha(blob)
        blobs[sha] = blob
        inputs.append(JobInput(role, sha, len(blob), "array", **about))
    return blobs, inputs


def _collect(run: JobRun, client: DasClient, done: Event, is_last_round: bool) -> dict[str, np.ndarray] | None:
    """The arrays of a finished job; None when the server no longer has them, unless ``is_last_round``."""
    made = [codec.from_plain(Artefact, plain) for plain in done.fields["artefacts"]]
    made = [one for one in made if one.role == "array"]
    if not made:
        raise ProtocolError("The server finished the job without any array; use the same release on both sides.")
    run.progress("downloading", 0, len(made))
    try:
        blobs = list(client.fetch_each([(one.sha, one.size_bytes) for one in made], should_stop=run.should_stop))
    except StorageError as error:
        if error.field != "sha" or is_last_round:
            raise
        return None
    run.progress("downloading", len(made), len(made))
    about = zip(made, blobs, strict=True)
    return {one.name: frames.decode_array(blob, one.dtype, one.shape, one.codec) for one, blob in about}
