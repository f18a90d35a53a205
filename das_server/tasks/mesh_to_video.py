# SPDX-License-Identifier: GPL-3.0-or-later
"""The main task: an animated scene's tracking video, its first frame and a prompt become the scene's frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from das_blender_addon.errors import JobCancelled, JobRejected
from das_blender_addon.protocol import sizes
from das_blender_addon.protocol.frames import CODECS
from das_blender_addon.protocol.kinds import MAX_PROMPT
from das_blender_addon.protocol.messages import JobInput, JobSpec, ModelCapability
from das_server import media
from das_server.models.adapters import AdapterUse, find_adapter
from das_server.models.registry import default_models_folder
from das_server.tasks.base import LoadedInput, TaskContext, TaskResult

if TYPE_CHECKING:
    import torch

TRACKING_RANGES = ("signed", "unit")
MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 100.0
NEEDED_INPUTS = ("tracking_video", "first_frame")
CARRIED = "carried_video"
"""What key pictures show of every frame, for models that read it; without it they carry the first frame themselves."""
HOLES = "carried_holes"
"""Where they show nothing, 255 in [T,H,W], for models that read it; it comes with the carried video."""
REFERENCES = "references"
"""Key pictures of other frames than the clip's, [K,H,W,3], for models that read them."""
MAX_REFERENCES = 4
LORAS = "loras"
"""The option that lists adapters, [name, weight, SHA-256] each."""
SPEED, EXACT = "speed", "exact"
"""The option that says how the clip is made, and what it is without one."""
MAX_LORAS, MAX_LORA_WEIGHT = 8, 10.0


# ── Before a job is accepted ────────────────────────────────────────────────────────────────────────────────────────


def check(spec: JobSpec, inputs: list[JobInput], model: ModelCapability) -> None:
    """Compare a request with what ``model`` takes; raises `JobRejected` that names field, value and valid values."""
    _check_settings(spec, model)
    roles = [one.role for one in inputs]
    known = [*NEEDED_INPUTS, *(role for role in (CARRIED, HOLES, REFERENCES) if role in model.inputs)]
    for role in roles:
        if role not in known:
            words = ", ".join(known)
            raise JobRejected(
                f"The input {role[:40]!r} is not read by {model.name}, which reads {words}.", field="inputs"
            )
        if roles.count(role) > 1:
            raise JobRejected(f"The input {role!r} comes {roles.count(role)} times; send it once.", field="inputs")
    for role in NEEDED_INPUTS:
        if role not in roles:
            raise JobRejected(f"The input {role!r} is missing; {model.name} cannot work without it.", field="inputs")
    by_role = {one.role: one for one in inputs}
    window = [spec.num_frames, spec.height, spec.width]
    _check_png(by_role["first_frame"])
    _check_array(by_role["tracking_video"], "uint8", [*window, 3])
    if CARRIED in by_role:
        _check_array(by_role[CARRIED], "uint8", [*window, 3])
    if HOLES in model.inputs and (CARRIED in by_role) != (HOLES in by_role):
        missing = HOLES if CARRIED in by_role else CARRIED
        raise JobRejected(
            f"The input {missing!r} is missing; {model.name} reads {CARRIED} and {HOLES} together.", field="inputs"
        )
    if HOLES in by_role:
        _check_array(by_role[HOLES], "uint8", window)
    if REFERENCES in by_role:
        count = by_role[REFERENCES].shape[0] if by_role[REFERENCES].shape else 0
        _check_array(by_role[REFERENCES], "uint8", [min(max(count, 1), MAX_REFERENCES), *window[1:], 3])


def _check_settings(spec: JobSpec, model: ModelCapability) -> None:
    _check_is_one_of("num_frames", spec.num_frames, model.num_frames, model)
    if not sizes.makes_size(model, spec.width, spec.height):
        raise JobRejected(
            f"The size {spec.width}×{spec.height} is not one that {model.name} makes; "
            f"{sizes.advice(model, spec.width, spec.height)}.",
            field="width",
        )
    if not 1 <= spec.kept_frames <= spec.num_frames:
        raise JobRejected(
            f"kept_frames is {spec.kept_frames} but must lie between 1 and num_frames, {spec.num_frames}.",
            field="kept_frames",
        )
    _check_is_one_of("num_inference_steps", spec.num_inference_steps, model.exact_steps, model)
    if not (math.isfinite(spec.guidance_scale) and 0.0 <= spec.guidance_scale <= MAX_GUIDANCE):
        raise JobRejected(
            f"guidance_scale is {spec.guidance_scale} but must lie between 0 and {MAX_GUIDANCE:g}.",
            field="guidance_scale",
        )
    if not 0 <= spec.seed <= MAX_SEED:
        raise JobRejected(f"seed is {spec.seed} but must lie between 0 and 2^63 - 1.", field="seed")
    _check_is_one_of("tracking_range", spec.tracking_range, TRACKING_RANGES, model)
    for field in ("prompt", "negative_prompt"):
        if len(getattr(spec, field)) > MAX_PROMPT:
            raise JobRejected(
                f"{field} has {len(getattr(spec, field))} characters but at most {MAX_PROMPT} are taken.",
                field=field,
            )
    for name in spec.options:
        if name not in (LORAS, SPEED):
            raise JobRejected(
                f"The option {str(name)[:40]!r} is not known; {model.name} takes {LORAS}, {SPEED}.", field="options"
            )
    if SPEED in spec.options:
        _check_is_one_of(SPEED, spec.options[SPEED], model.speeds, model)
    _check_loras(spec.options.get(LORAS, []), model)


def _check_loras(loras: Any, model: ModelCapability) -> None:
    known = {one[0]: one[1] for one in model.loras}
    entries = loras if isinstance(loras, list) else [None]
    if len(entries) > MAX_LORAS:
        raise JobRejected(f"{len(entries)} LoRAs are asked for; at most {MAX_LORAS} are taken.", field=LORAS)
    for one in entries:
        if not (isinstance(one, list) and [type(part) for part in one] == [str, float, str]):
            raise JobRejected(f"loras holds {str(one)[:80]}; each one is [name, weight, SHA-256].", field=LORAS)
        name, weight, sha = one
        if name not in known:
            words = ", ".join(known) or "none"
            raise JobRejected(f"There is no LoRA {name[:80]!r} for {model.name}; there is {words}.", field=LORAS)
        if not abs(weight) <= MAX_LORA_WEIGHT:
            raise JobRejected(
                f"The weight of the LoRA {name} is {weight}; it goes from -{MAX_LORA_WEIGHT:g} to {MAX_LORA_WEIGHT:g}.",
                field=LORAS,
            )
        if sha != known[name]:
            raise JobRejected(
                f"The LoRA {name} has been replaced since this job was planned; render again to use the new one.",
                field=LORAS,
            )
    if len({one[0] for one in entries}) < len(entries):
        raise JobRejected("A LoRA is asked for twice; add their weights instead.", field=LORAS)


def _check_is_one_of(field: str, value: Any, valid: Any, model: ModelCapability) -> None:
    if value not in valid:
        is_number = isinstance(value, int) and all(isinstance(one, int) for one in valid)
        near = sorted(valid, key=lambda one: abs(one - value))[:12] if is_number else list(valid)
        words = ", ".join(str(one) for one in sorted(near))
        raise JobRejected(f"{field} is {value!r} but {model.name} takes {words}.", field=field)


def _check_png(item: JobInput) -> None:
    if item.media != "image/png":
        raise JobRejected(f"The input {item.role} is {item.media[:40]!r} but must be image/png.", field=item.role)


def _check_array(item: JobInput, dtype: str, shape: list[int]) -> None:
    if item.media != "array":
        raise JobRejected(f"The input {item.role} is {item.media[:40]!r} but must be array.", field=item.role)
    if item.dtype != dtype or item.shape != shape:
        raise JobRejected(
            f"The input {item.role} is {item.dtype[:20]} {item.shape[:8]} but the settings ask for {dtype} {shape}.",
            field=item.role,
        )
    if item.codec not in CODECS:
        raise JobRejected(
            f"The input {item.role} uses the codec {item.codec[:20]!r}; use one of {', '.join(CODECS)}.",
            field=item.role,
        )


# ── In the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def run(spec: JobSpec, inputs: dict[str, LoadedInput], context: TaskContext) -> TaskResult:
    """Make the frames; the same ``spec`` and ``inputs`` give the same bytes on the same device.

    Raises `FirstFrameError`, `ProtocolError` (an input that does not hold what it says), `JobCancelled`, `ModelError`.
    """
    from das_server.pipeline.base import ClipJob, Watch
    from das_server.pipeline.clip import make_clip

    # 1. Conditions: checked before the model is touched.
    first_frame = media.read_first_frame(inputs["first_frame"].content, spec.width, spec.height)
    arrays = {role: inputs[role].array() for role in ("tracking_video", CARRIED, HOLES, REFERENCES) if role in inputs}
    job = ClipJob(
        spec.prompt,
        arrays["tracking_video"],
        first_frame,
        negative_prompt=spec.negative_prompt,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=spec.seed,
        tracking_range=spec.tracking_range,
        carried_video=arrays.get(CARRIED),
        holes=arrays[HOLES] > 127 if HOLES in arrays else None,
        references=arrays.get(REFERENCES),
        speed=spec.options.get(SPEED, EXACT),
        loras=tuple(_lora(spec, *one) for one in spec.options.get(LORAS, [])),
    )

    # 2. The model.
    pipeline = context.pipeline(spec.model)
    context.emit_progress("encoding", 0, 1)

    def on_stage(stage: str) -> None:
        context.emit_progress(stage, 0, spec.num_inference_steps if stage == "denoising" else 1)

    def on_step_end(step: int, num_steps: int, x0: torch.Tensor) -> None:
        context.emit_progress("denoising", step + 1, num_steps)
        if step + 1 < num_steps or num_steps == 1:
            context.emit_preview(step + 1, pipeline.preview_frames(x0))

    watch = Watch(
        should_stop=context.should_stop,
        on_stage=on_stage,
        on_step=on_step_end,
        on_picture=lambda frames: context.emit_preview(0, frames),  # shows the motion long before the first step
        checkpoint=context.checkpoint(),
    )
    result = make_clip(pipeline, job, watch)
    frames = result.frames

    if context.should_stop():
        raise JobCancelled("The job was cancelled.")

    report = {
        "tracking_range": spec.tracking_range,
        "carried": CARRIED in arrays,
        "pipeline": result.settings,
    }
    return TaskResult(frames=frames[: spec.kept_frames], report=report)


def _lora(spec: JobSpec, name: str, weight: float, sha: str) -> AdapterUse:
    """Raises `ModelError` where the file is not on this machine."""
    adapter = find_adapter(name, sha, spec.model, default_models_folder())
    return AdapterUse(name, adapter.path, sha, weight)
