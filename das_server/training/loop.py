# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: schedule, gradient clipping, weight averaging, logs, and checkpoints that resume bit for bit.

Nothing random is carried from step to step: the generators of a step are made from (seed, step, rank), so data order
and noise after a resume are those of an uninterrupted run. Checkpoints are safetensors and JSON.
"""

import csv
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .ranks import Ranks
from .sharding import like, whole
from .tensor_files import read_tensors, write_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train. Either `steps` or `minutes` ends the run and drives the learning-rate schedule;
    with `minutes` the schedule follows the wall clock, so two runs are alike but not equal."""

    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    warmup_steps: int = 100
    hold: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1
    checkpoint_every: int = 500
    log_every: int = 20
    validate_every: int = 500


@dataclass(frozen=True)
class StepContext:
    """What one step may draw from: `shared` is equal on all ranks, `rng` and `generator` differ between them."""

    step: int
    progress: float
    shared: np.random.Generator
    rng: np.random.Generator
    generator: torch.Generator


CHECKPOINT_FILES = ("weights.safetensors", "average.safetensors", "optimiser.safetensors", "state.json")
"""What a checkpoint folder holds, in the order in which it is written."""

StepLoss = Callable[[StepContext], tuple[torch.Tensor, dict[str, float]]]


class TrainingLoop:
    """One model, one optimiser, one folder: `last/` (checkpoint), `log.csv`, `validation.csv`."""

    def __init__(self, module: torch.nn.Module, optimiser: torch.optim.Optimizer, settings: LoopSettings, folder: Path,
                 ranks: Ranks):
        if (settings.steps is None) == (settings.minutes is None):
            raise ValueError("a training loop needs either steps or minutes, and not both")
        self.module, self.optimiser, self.settings, self.folder, self.ranks = module, optimiser, settings, folder, ranks
        self.trainable = {key: value for key, value in module.named_parameters() if value.requires_grad}
        # Without averaging it is the weights themselves, and takes no memory.
        self.average = {key: value.detach().clone() if settings.ema_decay else value.detach()
                        for key, value in self.trainable.items()}
        self.step = 0
        self.elapsed_s = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, step_loss: StepLoss, validate: Callable[["TrainingLoop"], dict[str, float]] | None = None) -> None:
        """Train until `steps` or `minutes` is reached; `validate` is called on rank 0 every `validate_every` steps."""
        settings, ranks = self.settings, self.ranks
        self.module.train()
        sums: dict[str, list[float]] = {}
        before_s = self.elapsed_s
        started = time.monotonic()
        while (progress := self._progress()) < 1.0:
            # 1. rate and generators of this step
            for group in self.optimiser.param_groups:
                group["lr"] = group["base_lr"] * self._rate(progress)
            # 2. gradients, accumulated, averaged and clipped
            self.optimiser.zero_grad(set_to_none=True)
            for part in range(settings.accumulate):
                loss, metrics = step_loss(self._context(progress, part))
                (loss / settings.accumulate).backward()
                for key, value in {"loss": loss.item(), **metrics}.items():
                    sums.setdefault(key, []).append(value)
            ranks.average_gradients(self.trainable.values())
            norm = whole(torch.nn.utils.clip_grad_norm_(self.trainable.values(), settings.clip_norm))
            # 3. update, unless the gradients overflowed
            if torch.isfinite(norm):
                self.optimiser.step()
                self._update_average()
            self.step += 1
            # 4. logs, validation, checkpoint
            sums.setdefault("gradient_norm", []).append(norm.item())
            self.elapsed_s = ranks.from_first(before_s + time.monotonic() - started)
            if self.step % settings.log_every == 0:
                self._log(sums, progress)
                sums = {}
            if ranks.rank == 0 and validate and self.step % settings.validate_every == 0:
                self._write_row("validation.csv", {"step": self.step, "elapsed_s": round(self.elapsed_s),
                                                   **validate(self)})
                self.module.train()
            if self.step % settings.checkpoint_every == 0:
                self.save()
        self.save()

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        """The whole state dict of the module with its trained parameters averaged over steps (EMA). All ranks
        together."""
        return {key: whole(value) for key, value in {**self.module.state_dict(), **self.average}.items()}

    def write_averaged(self, path: Path) -> None:
        """`averaged_weights` into a file, one after the other. All ranks together; rank 0 writes."""
        write_tensors(path if self.ranks.rank == 0 else None, {**self.module.state_dict(), **self.average})

    def save(self) -> None:
        """Write `last/`: a new folder first, then the swap, so that at every moment one of the two is whole. All ranks
        together; rank 0 writes."""
        files = {"weights": self.trainable, "average": self.average, "optimiser": self._optimiser_tensors()}
        is_first = self.ranks.rank == 0
        new, last, old = (self.folder / name for name in ("last.new", "last", "last.old"))
        if is_first:
            if self._whole_checkpoint() == new:  # an earlier run ended between the two steps of the swap
                shutil.rmtree(last, ignore_errors=True)
                os.replace(new, last)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
        for name, tensors in files.items():
            write_tensors(new / f"{name}.safetensors" if is_first else None, tensors)
        if not is_first:
            return
        (new / "state.json").write_text(json.dumps({"step": self.step, "elapsed_s": self.elapsed_s}))
        if last.exists():
            os.replace(last, old)
        os.replace(new, last)
        shutil.rmtree(old, ignore_errors=True)

    def _whole_checkpoint(self) -> Path | None:
        """`last/`, or `last.new/` where only that is whole, or None."""
        for folder in (self.folder / "last", self.folder / "last.new"):
            if all((folder / name).exists() for name in CHECKPOINT_FILES):
                try:
                    json.loads((folder / "state.json").read_text())
                except ValueError:
                    continue
                return folder
        return None

    def resume(self) -> bool:
        """Load the checkpoint if there is one; True when it was loaded. The run then goes on as if it had never
        stopped."""
        last = self._whole_checkpoint()
        if last is None:
            return False
        with torch.no_grad():
            for name, target in (("weights", self.trainable), ("average", self.average)):
                for key, value in read_tensors(last / f"{name}.safetensors"):
                    target[key].copy_(like(value, target[key]))
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        stored: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in read_tensors(last / "optimiser.safetensors"):
            index, name = key.split(".", 1)
            value = value if name == "step" else like(value, parameters[int(index)])
            stored.setdefault(int(index), {})[name] = value.clone()
        for index, state in stored.items():
            self.optimiser.state[parameters[index]] = state
        state = json.loads((last / "state.json").read_text())
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.ranks.wait()  # rank 0 may not write the next one before all have read this one
        _log.info("resumed %s at step %s", self.folder, self.step)
        return True

    def _progress(self) -> float:
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.elapsed_s / (60 * self.settings.minutes)

    def _rate(self, progress: float) -> float:
        """Factor on the base rates: linear warm-up, constant until `hold`, then linear or cosine to 1 %."""
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        late = max(0.0, progress - self.settings.hold) / (1 - self.settings.hold)
        fall = 1 - late if self.settings.schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * min(1.0, late))
        return warm * max(0.01, fall)

    def _context(self, progress: float, part: int = 0) -> StepContext:
        shared = [self.settings.seed, self.step, *([part] if part else [])]
        own = [*shared, self.ranks.rank]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(own).generate_state(1)[0]))
        return StepContext(self.step, progress, np.random.default_rng(shared),
                           np.random.default_rng([*shared, self.ranks.rank + 1]), generator)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.trainable.items():
            self.average[key].lerp_(value, 1 - decay)

    def _optimiser_tensors(self) -> dict[str, torch.Tensor]:
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        return {f"{index}.{key}": value for index, parameter in enumerate(parameters)
                for key, value in self.optimiser.state.get(parameter, {}).items()}

    def _log(self, sums: dict[str, list[float]], progress: float) -> None:
        if self.ranks.rank:
            return
        row = {"step": self.step, "elapsed_s": round(self.elapsed_s), "progress": round(progress, 4),
               **{key: round(float(np.mean(values)), 5) for key, values in sorted(sums.items())}}
        self._write_row("log.csv", row)
        _log.info("%s", row)

    def _write_row(self, name: str, row: dict[str, float]) -> None:
        """Append `row` to a CSV file, adding columns when it has new ones."""
        path = self.folder / name
        header = path.read_text().splitlines()[0].split(",") if path.exists() else None
        if header is None or set(row) - set(header):
            header = list(dict.fromkeys([*(header or []), *row]))
            old = list(csv.DictReader(path.open())) if path.exists() else []
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows(old)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, header).writerow(row)
