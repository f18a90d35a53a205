# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture is painted anew by words; what is in it stays where its depth, or its edges, say that it is."""

from __future__ import annotations

import math

from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol.kinds import MAX_PROMPT
from das_blender_addon.protocol.messages import EstimatorCapability, JobInput, JobSpec
from das_server.estimators.base import Asked, stepper
from das_server.tasks.base import LoadedInput, TaskContext, TaskResult
from das_server.tasks.estimate import CLIP, USES, check_inputs, check_size
from das_server.tasks.mesh_to_video import MAX_GUIDANCE, MAX_SEED

__all__ = ["USES", "check", "run"]

DEPTH = "depth"
MAX_SIDE = 2048
MAX_STEPS = 200
MAX_STRENGTH = 2.0


# ── Before a job is accepted ────────────────────────────────────────────────────────────────────────────────────────


def check(spec: JobSpec, inputs: list[JobInput], estimator: EstimatorCapability) -> None:
    """Compare a request with what ``estimator`` paints; raises `JobRejected` that names field, value and remedy."""
    if estimator.kind != "repaint":
        raise JobRejected(f"{estimator.name} measures {estimator.kind} and does not paint.", field="model")
    if spec.num_frames != 1:
        raise JobRejected(f"The clip has {spec.num_frames} frames; one picture is painted anew.", field="num_frames")
    check_size(spec)
    if max(spec.width, spec.height) > MAX_SIDE:
        raise JobRejected(
            f"The picture has {spec.width}×{spec.height} pixels; pictures of up to {MAX_SIDE} on a side are painted: "
            "make it smaller.",
            field="width",
        )
    check_inputs(spec, inputs, {CLIP: True, DEPTH: False})
    if not spec.prompt.strip():
        raise JobRejected("The prompt is empty; say in words what the picture is to look like.", field="prompt")
    for field in ("prompt", "negative_prompt"):
        if len(getattr(spec, field)) > MAX_PROMPT:
            raise JobRejected(
                f"{field} has {len(getattr(spec, field))} characters but at most {MAX_PROMPT} are taken.",
                field=field,
            )
    for name in spec.options:
        if name != "strength":
            raise JobRejected(
                f"The parameter {str(name)[:40]!r} is not known; repaint takes strength.", field="options"
            )
    for field, value, most in (
        ("num_inference_steps", spec.num_inference_steps, MAX_STEPS),
        ("guidance_scale", spec.guidance_scale, MAX_GUIDANCE),
        ("strength", spec.options.get("strength", 1.0), MAX_STRENGTH),
        ("seed", spec.seed, MAX_SEED),
    ):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not 0 <= value <= most:
            raise JobRejected(f"{field} is {str(value)[:40]} but must lie between 0 and {most:g}.", field=field)


# ── In the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def run(spec: JobSpec, inputs: dict[str, LoadedInput], context: TaskContext) -> TaskResult:
    """Paint; the same ``spec`` and ``inputs`` give the same picture on the same device.

    Raises `JobRejected`, `ProtocolError`, `JobCancelled`, `ModelError`, `OutOfMemory`.
    """
    arrays = {role: one.array() for role, one in inputs.items()}
    clip = arrays.pop(CLIP)
    if DEPTH not in arrays and (clip == clip[:1, :1, :1]).all():
        raise JobRejected(
            "The picture has one colour everywhere and so no edges to keep; give its depth, or another picture.",
            field=CLIP,
        )
    if DEPTH in arrays and not (arrays[DEPTH] > 0).any():
        raise JobRejected("The depth has no distance anywhere (all is 0); leave it out.", field=DEPTH)
    painter = context.estimator(spec.model)
    options = {
        "steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "negative_prompt": spec.negative_prompt,
        "strength": float(spec.options.get("strength", 0.75)),
    }
    context.emit_progress("encoding", 0, 1)
    step = stepper(context.should_stop, lambda done, of: context.emit_progress("denoising", done, of))
    made = painter(Asked(clip, options, arrays, spec.prompt, spec.seed, step))
    return TaskResult(arrays=made, report={"estimator": spec.model, "guided_by": DEPTH if arrays else "edges"})
