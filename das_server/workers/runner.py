# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one job after another on one device with torch, whoever carries the words between it and the server.

One file, though long: it is the way of one job through one worker.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from das_blender_addon.errors import DasError, JobCancelled, ModelError, OutOfMemory
from das_blender_addon.protocol.frames import encode_array
from das_blender_addon.protocol.messages import Artefact, JobInput, JobSpec
from das_blender_addon.protocol.png import encode_png
from das_server import media
from das_server.models.registry import model_path, model_spec
from das_server.models.revision import fingerprint
from das_server.pipeline.device_errors import (
    is_device_lost,
    is_out_of_device_memory,
    is_out_of_memory,
    is_refusal,
)
from das_server.store.blobs import DISK, BlobStore
from das_server.tasks.base import LoadedInput, TaskContext, TaskResult, task_module
from das_server.tasks.mesh_to_video import EXACT
from das_server.workers import wire
from das_server.workers.estimator_shelf import EstimatorShelf
from das_server.workers.failures import error_of, first_line
from das_server.workers.machine import (
    end_as_asked,
    free_memory,
    import_all,
    num_cores,
    peak_memory_bytes,
    set_up_torch,
)
from das_server.workers.stage_times import StageTimes
from das_server.workers.talk import Talk

if TYPE_CHECKING:
    from das_server.estimators.base import Estimator
    from das_server.pipeline.base import Pipeline
    from das_server.pipeline.resume import Checkpoint
    from das_server.workers.companions import Companions

_log = logging.getLogger(__name__)

NO_TORCH_STATUS = 69
CONTEXT_IS_DEAD_STATUS = 70
"""Exit status after an error that leaves the GPU unusable for this process."""

MAX_SMALLER_PROFILES = 2
"""How often one attempt at a job begins anew for want of memory: from resident to group_offload."""


class Worker:
    """Runs one job after another; keeps one pipeline loaded.

    ``state``: the folder of its blobs and checkpoints, the server's own where they share a disk.  ``kernel_notes``: see
    `acceleration`.  ``speed``: the server's.  ``companions``: this worker's other processes.
    ``check_weights(model, revision)``: where they share none, raises `ModelError` unless the weights here are those.
    """

    def __init__(
        self,
        link: Talk,
        state: Path,
        *,
        device: str,
        threads: int,
        profile: str,
        attention_backend: str = "auto",
        compile_blocks: bool = False,
        float8: bool = False,
        speed: str = EXACT,
        companions: Companions | None = None,
        kernel_notes: Path | None = None,
        check_weights: Callable[[str, str], None] = lambda model, revision: None,
    ):
        self._link = link
        self._blobs = BlobStore(state)
        self._scratch = state / "scratch" / link.name
        self._device = device
        self._threads = threads or num_cores()
        self._profile = profile
        self._acceleration: dict[str, Any] = {"attention_backend": attention_backend, "compile_blocks": compile_blocks}
        self._always_float8, self._speed, self._float8 = float8, speed, False
        """Whether the weights are in float8 for every job; what the server does where a job leaves it the choice; and
        whether those that are loaded are."""
        self._companions, self._group = companions, None
        self._acceleration |= {"kernel_notes": kernel_notes or state / "kernel_notes"}
        self._check_weights = check_weights
        self._device_label = device
        self._versions: dict[str, str] = {}
        self._pipeline: Pipeline | None = None
        self._model = ""
        self._weights = ""
        self._shelf = EstimatorShelf(self._make_room)
        self._planned, self._short, self._is_smaller = "", 0, False
        """The profile that was planned for the model, the memory in which it did not suffice, and whether the server
        was told that another is in use."""
        self._checkpoints = state / "checkpoints"
        self._checkpoint: Checkpoint | None = None

    def run_forever(self) -> None:
        """Prepare torch, say so, then obey; never returns."""
        try:
            compiler = self._acceleration["compile_blocks"]
            import_all(compiler=compiler)
            about = set_up_torch(self._device, self._threads, compiler=compiler)
        except Exception as error:  # a broken installation or a device that is not there: say so, there is no other way
            _log.exception("torch is not usable on %s", self._device)
            problem = f"torch is not usable on {self._device}: {type(error).__name__}: {first_line(error)}"
            self._link.end(problem, NO_TORCH_STATUS)
        self._device = about["device"]
        self._versions = about["versions"]
        if self._companions is not None:
            self._group = self._companions.join(self._device)
            about["device_label"] += f" and {self._group.size - 1} more"
        self._device_label = about["device_label"]
        self._link.say("ready", **about, state="ready")
        while True:
            order = self._link.next_order()
            if order["kind"] == "load":
                self._warm_up(order["model"])
            else:
                self._run(order)
                if self._link.ends.is_set():
                    self._link.end("", 0)

    def _warm_up(self, model: str) -> None:
        with self._link.state("loading"):
            self._link.model = model
            try:
                loaded = self._load(model, self._wants_float8({"speed": self._speed}))
                for num_rows in self._rows_to_come(model):
                    loaded.warm_up(num_rows)
            except DasError as error:
                _log.error("the model %s is not loaded: %s", model, error.message)
                self._link.say("problem", message=error.message)
            except Exception as error:  # whatever a model's files do, the worker stays and says so
                _log.exception("the model %s is not loaded", model)
                if is_device_lost(error):
                    os._exit(CONTEXT_IS_DEAD_STATUS)
                reason = f"{type(error).__name__}: {error}"
                self._link.say("problem", message=f"The model {model} cannot be loaded: {reason}")
            self._link.model = self._model

    def _rows_to_come(self, model: str) -> tuple[int, ...]:
        """How many rows of guidance jobs of this model will compute together: both, where it is guided, and one alone
        in steps that a quicker speed leaves unguided; of two devices, each computes one; of more, each has a part of
        both, which is not compiled."""
        if self._group is not None:
            return (1,) if self._group.size == 2 else ()
        if model_spec(model).default_guidance <= 1:
            return (1,)
        return (2,) if self._speed == EXACT else (2, 1)

    def _wants_float8(self, options: dict[str, Any]) -> bool:
        """Whether a job with these options is computed in float8: of those that may lose something, on a server that
        loses something, where it pays, which is under compilation only."""
        if self._always_float8:
            return True
        is_exact = EXACT in (self._speed, options.get("speed", EXACT))
        if is_exact or options.get("loras") or not self._acceleration["compile_blocks"]:
            return False
        from das_server.pipeline.precision import can_float8

        return can_float8(self._device, self._acceleration["kernel_notes"])

    def _is_loaded(self, model: str, float8: bool, weights: str) -> bool:
        return self._pipeline is not None and (self._model, self._float8, self._weights) == (model, float8, weights)

    def _load(self, model: str, float8: bool = False) -> Pipeline:
        weights = fingerprint(model_path(model))
        if self._is_loaded(model, float8, weights):
            self._let_estimator_make_room()
            self._use_planned_profile_again()
            if self._pipeline is not None:
                return self._pipeline
        from das_server.pipeline.loading import load_pipeline

        self._pipeline, self._model = None, ""
        self._shelf.clear()
        free_memory()  # two large models do not fit
        started = time.monotonic()
        self._pipeline = load_pipeline(
            model, device=self._device, profile=self._profile, float8=float8, **self._acceleration
        )
        if self._group is not None:  # where one cannot load it, none can, and this one has said why
            self._group.tell("load", model=model, float8=float8)
            self._group.wait()
            self._pipeline.group = self._group
        self._float8 = float8
        self._model = self._link.model = model
        self._planned, self._short = self._pipeline.profile, 0
        self._no_longer_smaller()
        self._weights = weights if fingerprint(model_path(model)) == weights else ""  # if replaced meanwhile, once more
        _log.info("the model %s is loaded on %s after %.1f s", model, self._device, time.monotonic() - started)
        return self._pipeline

    def _make_room(self) -> None:
        """Let the pipeline go: an estimator needs its memory."""
        _log.info("the model %s makes room for an estimator", self._model)
        self._pipeline, self._model = None, ""
        self._link.model = ""
        free_memory()

    def _run(self, order: dict[str, Any]) -> None:
        job = order["job"]
        _log.info("job %s: attempt %s starts on %s", job, order["attempt"], self._device)
        try:
            artefacts, report = self._work_within_memory(order)
        except DasError as error:
            _log.info("job %s: %s: %s", job, error.code, error.message)
            if error.field == DISK:  # the next attempt goes on from its checkpoint
                self._checkpoint = None
            self._link.fail(order, error)
        except Exception as error:
            _log.exception("job %s: unexpected error", job)
            if is_device_lost(error):
                self._note_what_broke(error)
                os._exit(CONTEXT_IS_DEAD_STATUS)
            failure = error_of(error, self._device_label)
            is_known = is_out_of_memory(error) or is_refusal(error)
            if self._is_out_of_step(error) or not is_known:  # nobody knows what it has left behind in here
                shutil.rmtree(self._scratch, ignore_errors=True)
                self._link.end(failure.message, wire.UNEXPECTED_STATUS)
            self._link.fail(order, failure)
        else:
            self._link.finish(order, [dataclasses.asdict(one) for one in artefacts], report)
            _log.info("job %s: done", job)
        finally:  # not where the process ends, whose job then goes on from its checkpoint
            shutil.rmtree(self._scratch, ignore_errors=True)
            if self._checkpoint is not None:
                self._checkpoint.remove()
                self._checkpoint = None

    def _note_what_broke(self, error: Exception) -> None:
        """Let the next process do without the attention kernel under which the device broke."""
        if self._pipeline is not None:
            from das_server.pipeline.acceleration import note_broken_device

            note_broken_device(self._pipeline.acceleration, error)

    def _work_within_memory(self, order: dict[str, Any]) -> tuple[list[Artefact], dict[str, Any]]:
        """`_work`; where the memory does not suffice, again without an estimator beside the model, then with a smaller
        memory profile, which stays."""
        for _ in range(1 + MAX_SMALLER_PROFILES):
            try:
                return self._work(order)
            except Exception as error:
                if self._pipeline is None or not self._can_profile_help(error):
                    raise
                _log.warning("job %s: %s: %s", order["job"], type(error).__name__, first_line(error))
                problem = error.with_traceback(None)  # which holds the tensors of this attempt
                problem.__context__ = problem.__cause__ = None
            if self._shelf.let_go():  # an estimator was in the way: the profile stays
                free_memory()
                continue
            self._use_smaller_profile(order, problem)
        return self._work(order)

    def _is_out_of_step(self, error: Exception) -> bool:
        """Whether it came while the other devices of this worker wait in the middle of a step: only an end helps."""
        if self._group is None:
            return False
        from das_server.pipeline.group import OutOfStep

        return isinstance(error, OutOfStep)

    def _can_profile_help(self, error: Exception) -> bool:
        """Whether a smaller memory profile might help: where the device has memory of its own, it frees that only."""
        if self._is_out_of_step(error):
            return False
        on_gpu = self._device.startswith("cuda")
        return is_out_of_device_memory(error) if on_gpu else is_out_of_memory(error)

    def _use_smaller_profile(self, order: dict[str, Any], problem: Exception) -> None:
        """Tell of the next smaller profile and use it.  Raises ``problem`` when none is left."""
        from das_server.pipeline.placement import room_for_model, smaller_profile

        free_memory()
        smaller = smaller_profile(self._pipeline, problem)
        if not smaller:
            raise problem
        self._short = room_for_model(self._pipeline)
        before = self._pipeline.profile
        message = f"The memory does not suffice with the profile {before}; once more with {smaller}, which is slower."
        _log.warning("job %s: %s", order["job"], message)
        self._link.retry(order, OutOfMemory.code, message)  # before the move, which may take long
        self._move_to(smaller)
        lasting = f"The memory did not suffice for the profile {self._planned}: {smaller} is used until there is more."
        self._link.say("problem", message=lasting)
        self._is_smaller = True

    def _no_longer_smaller(self) -> None:
        """Take back what `_use_smaller_profile` said for as long as that lasts."""
        if self._is_smaller:
            self._is_smaller = False
            self._link.say("problem", message="")

    def _use_planned_profile_again(self) -> None:
        """Take back what `_use_smaller_profile` did, where there is more memory now."""
        from das_server.pipeline.placement import has_room_again

        if self._pipeline.profile != self._planned and has_room_again(self._pipeline, self._planned, self._short):
            _log.info("the profile %s is used again: there is more memory now", self._planned)
            try:
                self._move_to(self._planned)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                _log.warning("there was less memory than it seemed, so the model is loaded anew: %s", first_line(error))
            self._no_longer_smaller()

    def _let_estimator_make_room(self) -> None:
        """Nothing that is beside the model may make a job of its own smaller or slower than planned."""
        if not self._shelf.name:
            return
        from das_server.pipeline.placement import has_working_room

        if self._pipeline.profile != self._planned or not has_working_room(self._pipeline):
            _log.info("the estimator %s makes room for a clip", self._shelf.name)
            self._shelf.clear()
            free_memory()

    def _move_to(self, profile: str) -> None:
        try:
            self._pipeline.use_profile(profile)
        except Exception:
            self._pipeline, self._model = None, ""  # half of it may be elsewhere
            raise
        free_memory()

    def _work(self, order: dict[str, Any]) -> tuple[list[Artefact], dict[str, Any]]:
        # 1. What is wanted, and whether it still is.
        spec = JobSpec(**order["spec"])
        about = [JobInput(**one) for one in order["inputs"]]
        inputs = {one.role: LoadedInput(one, self._blobs.read_whole(one.sha)) for one in about}
        times = StageTimes()
        context = self._context(order, times)
        if context.should_stop():
            raise JobCancelled("The job was cancelled.")

        # 2. Pixels.
        self._scratch.mkdir(parents=True, exist_ok=True)
        result = task_module(spec.task).run(spec, inputs, context)

        # 3. Files, all of them on disk before the job is done.
        artefacts = self._save(result, context)
        timings_s = times.finish()
        about = {
            "model": spec.model,
            "seed": spec.seed,
            "settings": dataclasses.asdict(spec),
            "device": self._device_label,
        }
        about |= {"threads": self._threads, "versions": self._versions, "timings_s": timings_s}
        about |= {"memory_profile": getattr(self._pipeline, "profile", self._profile)}
        about |= {"peak_memory_bytes": peak_memory_bytes()}
        about |= {"first_step_s": round(times.first_step_s, 3)} if times.first_step_s else {}
        return artefacts, about | result.report

    def _context(self, order: dict[str, Any], times: StageTimes) -> TaskContext:
        def emit_progress(stage: str, step: int, of: int) -> None:
            times.enter(stage)
            if times.note_step(stage, step):
                loading_s = times.spent_s("loading")
                said = f", {loading_s:.1f} s of it to load the model" if loading_s else ""
                _log.info("job %s: its first step is done after %.1f s%s", order["job"], times.first_step_s, said)
            fields = {"stage": stage, "step": step, "of": of, "elapsed_s": round(times.elapsed_s, 3)}
            self._link.progress(order, fields)

        def emit_preview(step: int, frames: np.ndarray) -> None:
            sha, size_bytes = self._blobs.add(media.preview_jpeg(frames))
            artefact = Artefact(role="preview", sha=sha, size_bytes=size_bytes, media="image/jpeg")
            self._link.preview(order, step, dataclasses.asdict(artefact))

        def pipeline(model: str) -> Pipeline:
            float8 = self._wants_float8(order["spec"].get("options", {}))
            if not self._is_loaded(model, float8, fingerprint(model_path(model))):
                emit_progress("loading", 0, 1)
            self._check_weights(model, order["spec"].get("model_revision", ""))
            loaded = self._load(model, float8)
            if order["weights"] and order["weights"] != self._weights:
                raise ModelError(
                    f"The weights of {model} were replaced when this job was about to start; render again to use the "
                    "new ones.",
                    field="model",
                )
            return loaded

        def checkpoint() -> Checkpoint:
            from das_server.pipeline.resume import Checkpoint

            about = {name: order[name] for name in ("spec", "inputs")} | {"versions": self._versions}
            about |= {"weights": self._weights, "threads": self._threads, "device": self._device_label}
            path, ends = self._checkpoints / f"{order['job']}.safetensors", self._link.ends
            self._checkpoint = Checkpoint(
                path,
                about,
                on_saved=lambda path: self._link.note_checkpoint(order, path),
                is_last=ends.is_set,
                then=end_as_asked,
            )
            return self._checkpoint

        def estimator(name: str) -> Estimator:
            self._check_weights(name, order["spec"].get("model_revision", ""))
            emit_progress("loading", 0, 1)
            is_alone = self._pipeline is None
            return self._shelf.take(name, order["weights"], self._device, is_alone=is_alone)

        return TaskContext(
            emit_progress=emit_progress,
            emit_preview=emit_preview,
            should_stop=lambda: self._link.is_cancelled(order["job"]),
            pipeline=pipeline,
            scratch=self._scratch,
            checkpoint=checkpoint,
            estimator=estimator,
        )

    def _save(self, result: TaskResult, context: TaskContext) -> list[Artefact]:
        def save(index: int) -> Artefact:
            sha, size_bytes = self._blobs.add(encode_png(result.frames[index]))
            return Artefact(role="frame", sha=sha, size_bytes=size_bytes, media="image/png", index=index)

        artefacts = []
        for name, array in result.arrays.items():
            blob, about = encode_array(array)
            sha, size_bytes = self._blobs.add(blob)
            artefacts.append(Artefact("array", sha, size_bytes, "array", name=name, **about))
        if result.frames is None:
            return artefacts
        count = len(result.frames)
        context.emit_progress("saving", 0, count)
        with ThreadPoolExecutor(max_workers=min(4, self._threads)) as pool:
            for artefact in pool.map(save, range(count)):
                artefacts.append(artefact)
                if len(artefacts) % 8 == 0 or len(artefacts) == count:
                    context.emit_progress("saving", len(artefacts), count)
                if context.should_stop():
                    pool.shutdown(cancel_futures=True)
                    raise JobCancelled("The job was cancelled.")
        return artefacts
