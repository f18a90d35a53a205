# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture or clip is measured: what comes of it are arrays (tracks, cuts, masks, depth, a background, errors)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol.frames import CODECS
from das_blender_addon.protocol.messages import EstimatorCapability, JobInput, JobSpec
from das_server.estimators.base import Asked, stepper
from das_server.tasks.base import LoadedInput, TaskContext, TaskResult

USES = "estimator"
"""What `JobSpec.model` names."""

CLIP = "clip"
MAX_SIDE, MIN_SIDE = 8192, 16
MAX_FRAMES = 2048
MAX_CLIP_BYTES = 2 << 30
MAX_POINTS = 1024
"""Two lists of them fit into one request."""
MAX_TRACKS = 400_000
MAX_PLACES = 1 << 26
"""Tracks × frames: 9 bytes each are given back."""


@dataclass(frozen=True)
class Number:
    """A parameter between ``low`` and ``high``, whole or not."""

    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class Points:
    """A parameter: a list of [x, y] (``width`` 2) or one list of ``width`` numbers, in pixels."""

    width: int
    fewest: int = 1
    flat: bool = False


@dataclass(frozen=True)
class Kind:
    """``frames``: (fewest, most).  ``parameters``: what the options may say.  ``arrays``: role → whether it must come;
    each is bool or float32 [H,W], or as `CLIP_ARRAYS` says.  ``one_of``: parameters and arrays of which exactly one
    must be there.
    ``measures_flat``: a clip of one colour is measured, too."""

    frames: tuple[int, int]
    parameters: Mapping[str, Number | Points]
    arrays: Mapping[str, bool]
    one_of: tuple[str, ...] = ()
    measures_flat: bool = False


KINDS = {
    "tracks": Kind((2, MAX_FRAMES), {"every": Number(1, 64, True)}, {}),
    "cuts": Kind((2, MAX_FRAMES), {}, {}),
    "mask": Kind(
        (1, 1),
        {"box": Points(4, flat=True), "lasso": Points(2, 3), "points": Points(2), "away": Points(2)},
        {},
        ("box", "lasso", "points"),
    ),
    "clip_mask": Kind(
        (2, MAX_FRAMES),
        {"box": Points(4, flat=True), "lasso": Points(2, 3), "points": Points(2), "away": Points(2)},
        {"mask": False},
        ("box", "lasso", "points", "mask"),
    ),
    "salient": Kind((1, 1), {}, {}),
    "depth": Kind((1, MAX_FRAMES), {"lens_mm": Number(1, 5000)}, {}),
    "background": Kind((1, 1), {"radius": Number(1, 64)}, {"mask": True}),
    "adherence": Kind((1, MAX_FRAMES), {}, {"prediction": True, "seen": True}, measures_flat=True),
}
CLIP_ARRAYS = {"prediction": ("uint8", True), "seen": ("bool", False)}
"""Role → type, and whether there are colours, of the arrays that have as many frames as the clip."""


# ── Before a job is accepted ────────────────────────────────────────────────────────────────────────────────────────


def check(spec: JobSpec, inputs: list[JobInput], estimator: EstimatorCapability) -> None:
    """Compare a request with what ``estimator`` measures; raises `JobRejected` that names field, value and remedy."""
    kind = KINDS.get(estimator.kind)
    if kind is None:
        raise JobRejected(
            f"{estimator.name} is of the kind {estimator.kind}, which this task does not do.", field="model"
        )
    asked = spec.options.get("kind", estimator.kind)
    if asked != estimator.kind:
        raise JobRejected(f"{estimator.name} measures {estimator.kind}, not {str(asked)[:40]!r}.", field="kind")
    fewest, most = kind.frames
    if spec.num_frames < fewest:
        raise JobRejected(
            f"The clip has {spec.num_frames} frame{'s'[: spec.num_frames != 1]}; {estimator.kind} takes {fewest} and "
            "more.",
            field="num_frames",
        )
    if spec.num_frames > most:
        what = "one picture" if most == 1 else f"at most {most} frames"
        raise JobRejected(f"The clip has {spec.num_frames} frames; {estimator.kind} takes {what}.", field="num_frames")
    check_size(spec)
    check_inputs(spec, inputs, {CLIP: True, **kind.arrays})
    _check_options(kind, spec, {one.role for one in inputs}, estimator)


def check_size(spec: JobSpec) -> None:
    """Raise `JobRejected` for pictures that are too small or too large to be measured."""
    for field in ("width", "height"):
        if not MIN_SIDE <= getattr(spec, field) <= MAX_SIDE:
            raise JobRejected(
                f"The {field} is {getattr(spec, field)} pixels; pictures of {MIN_SIDE} to {MAX_SIDE} are measured.",
                field=field,
            )
    size_bytes = spec.num_frames * spec.height * spec.width * 3
    if size_bytes > MAX_CLIP_BYTES:
        raise JobRejected(
            f"The clip has {size_bytes >> 20} MB; at most {MAX_CLIP_BYTES >> 20} are measured: send fewer frames, or "
            "smaller ones.",
            field="num_frames",
        )


def check_inputs(spec: JobSpec, inputs: list[JobInput], roles: Mapping[str, bool]) -> None:
    """Raise `JobRejected` unless ``inputs`` are those of ``roles`` (→ whether it must come), in their shapes."""
    there = [one.role for one in inputs]
    for role in there:
        if role not in roles:
            raise JobRejected(f"The input {role[:40]!r} is not read; send {', '.join(roles)}.", field="inputs")
        if there.count(role) > 1:
            raise JobRejected(f"The input {role!r} comes {there.count(role)} times; send it once.", field="inputs")
    for role, must in roles.items():
        if must and role not in there:
            raise JobRejected(f"The input {role!r} is missing.", field="inputs")
    frame = [spec.height, spec.width]
    for one in inputs:
        wanted = (("bool", "float32"), frame)
        if one.role == CLIP or one.role in CLIP_ARRAYS:
            dtype, has_colours = CLIP_ARRAYS.get(one.role, ("uint8", True))
            wanted = ((dtype,), [spec.num_frames, *frame, *([3] if has_colours else [])])
        if one.media != "array" or one.dtype not in wanted[0] or one.shape != wanted[1]:
            raise JobRejected(
                f"The input {one.role} is {one.media[:20]} {one.dtype[:20]} {one.shape[:8]}, not an array "
                f"{' or '.join(wanted[0])} {wanted[1]}.",
                field=one.role,
            )
        if one.codec not in CODECS:
            raise JobRejected(
                f"The input {one.role} uses the codec {one.codec[:20]!r}; use one of {', '.join(CODECS)}.",
                field=one.role,
            )


def _check_options(kind: Kind, spec: JobSpec, roles: set[str], estimator: EstimatorCapability) -> None:
    for name, value in spec.options.items():
        if name == "kind":
            continue
        if name not in kind.parameters:
            known = ", ".join(kind.parameters) or "none"
            raise JobRejected(
                f"The parameter {str(name)[:40]!r} is not known; {estimator.kind} takes {known}.", field="options"
            )
        wanted = kind.parameters[name]
        (_check_number if isinstance(wanted, Number) else _check_points)(name, value, wanted, spec)
    if estimator.kind == "tracks":
        _check_tracks(spec)
    given = [name for name in kind.one_of if name in spec.options or name in roles]
    if kind.one_of and len(given) != 1:
        said = f"{' and '.join(given)} were given" if given else "none was given"
        raise JobRejected(f"A {estimator.kind} takes one of {', '.join(kind.one_of)}; {said}.", field="options")


def _check_tracks(spec: JobSpec) -> None:
    every = spec.options.get("every", 8)
    tracks = (spec.width // every) * (spec.height // every)
    if tracks > MAX_TRACKS:
        enough = math.ceil(math.sqrt(spec.width * spec.height / MAX_TRACKS))
        raise JobRejected(
            f"Every {every} pixels of {spec.width}×{spec.height} are {tracks} tracks and {MAX_TRACKS} are followed at "
            f"the most; ask for every {enough} pixels.",
            field="every",
        )
    if tracks * spec.num_frames > MAX_PLACES:
        raise JobRejected(
            f"{tracks} tracks through {spec.num_frames} frames are more than the {MAX_PLACES} places that are given at "
            "once; ask for fewer tracks with a larger step, or send fewer frames.",
            field="every",
        )


def _check_number(name: str, value: Any, wanted: Number, spec: JobSpec) -> None:
    good = not isinstance(value, bool) and isinstance(value, int if wanted.whole else int | float)
    if not good or not (math.isfinite(value) and wanted.low <= value <= wanted.high):
        what = "a whole number" if wanted.whole else "a number"
        raise JobRejected(
            f"The parameter {name} is {str(value)[:40]}; it must be {what} between {wanted.low:g} and {wanted.high:g}.",
            field=name,
        )


def _check_points(name: str, value: Any, wanted: Points, spec: JobSpec) -> None:
    rows = [value] if wanted.flat else value
    good = isinstance(rows, list) and wanted.fewest <= len(rows) <= MAX_POINTS
    good = good and all(isinstance(row, list) and len(row) == wanted.width for row in rows)
    good = good and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for r in rows for n in r
    )
    if not good:
        what = "[x, y, width, height]" if wanted.flat else f"a list of {wanted.fewest} to {MAX_POINTS} [x, y]"
        raise JobRejected(f"The parameter {name} is not {what} in pixels.", field=name)
    size = f"{spec.width}×{spec.height}"
    if wanted.flat:
        x, y, width, height = value
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > spec.width or y + height > spec.height:
            raise JobRejected(f"The {name} {value} is not inside the picture of {size} pixels.", field=name)
    elif name != "lasso" and not all(0 <= x < spec.width and 0 <= y < spec.height for x, y in rows):
        raise JobRejected(f"The parameter {name} has a point outside of the picture of {size} pixels.", field=name)


# ── In the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def run(spec: JobSpec, inputs: dict[str, LoadedInput], context: TaskContext) -> TaskResult:
    """Measure; the same ``spec`` and ``inputs`` give the same arrays on the same device.

    Raises `JobRejected` (a picture or mask that cannot be measured), `ProtocolError`, `JobCancelled`, `ModelError`.
    """
    arrays = {role: one.array() for role, one in inputs.items()}
    clip = arrays.pop(CLIP)
    kind = spec.options.get("kind", "")
    if not (kind in KINDS and KINDS[kind].measures_flat) and (clip == clip[:1, :1, :1]).all():
        raise JobRejected("The picture has one colour everywhere, so there is nothing to measure.", field=CLIP)
    estimator = context.estimator(spec.model)
    step = stepper(context.should_stop, lambda done, of: context.emit_progress("encoding", done, of))
    options = {name: value for name, value in spec.options.items() if name != "kind"}
    step(0, 1)
    made = estimator(Asked(clip, options, arrays, spec.prompt, spec.seed, step))
    return TaskResult(arrays=made, report={"estimator": spec.model})
