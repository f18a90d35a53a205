# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a clip that was broken off goes on: latents, the sampler's history and the random stream, on disk now and then.

Everything before the first step is computed anew, from the same streams, so that the frames have the bytes of a clip
that was made in one go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)

EVERY_S = 20.0
"""Shortest time between two checkpoints."""


class Checkpoint:
    """One file at ``path``.  ``about``: all that decides the clip beside the pipeline's own settings, in JSON's kinds;
    a file of anything else is not used.  ``on_saved`` is told each time that it is there.  A disk that refuses costs
    the checkpoint, not the clip.  Where ``is_last()``, a checkpoint is due after every step, and ``then()`` follows it.
    """

    def __init__(
        self,
        path: Path,
        about: dict[str, Any],
        *,
        every_s: float = EVERY_S,
        on_saved: Callable[[Path], None] = lambda path: None,
        is_last: Callable[[], bool] = lambda: False,
        then: Callable[[], None] = lambda: None,
    ):
        self._is_last, self._then = is_last, then
        self._path = path
        self._about = about
        self._every_s = every_s
        self._on_saved = on_saved
        self._key = ""
        self._saved_s = time.monotonic()

    def restore(
        self, settings: dict[str, Any], latents: torch.Tensor, generator: torch.Generator, *, is_wanted: bool = True
    ) -> tuple[int, torch.Tensor, torch.Tensor | None]:
        """(steps done, latents, x0) as saved with the same settings, and ``generator`` set to where it was then; else,
        and where that ``is_wanted`` not, (0, ``latents``, None)."""
        words = json.dumps([self._about, settings], sort_keys=True, default=str)
        self._key = hashlib.sha256(words.encode()).hexdigest()
        self._saved_s = time.monotonic()
        if not is_wanted:
            return 0, latents, None
        try:
            with safe_open(self._path, "pt") as file:
                if (file.metadata() or {}).get("key") != self._key:
                    return 0, latents, None
                step = int(file.metadata()["step"])
                saved, x0 = (file.get_tensor(name).to(latents.device) for name in ("latents", "x0"))
                generator.set_state(file.get_tensor("generator"))
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            if self._path.exists():
                log.warning("the checkpoint %s cannot be used, so the clip begins anew: %s", self._path, error)
            return 0, latents, None
        log.info("the clip goes on after step %s", step)
        return step, saved, x0

    def note(self, step: int, latents: torch.Tensor, x0: torch.Tensor, generator: torch.Generator) -> None:
        """So many steps are done; saved when the last time was long enough ago."""
        is_last = self._is_last()
        if time.monotonic() - self._saved_s < self._every_s and not is_last:
            return
        tensors = {"latents": latents.contiguous(), "x0": x0.contiguous(), "generator": generator.get_state()}
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, part, metadata={"key": self._key, "step": str(step)})
            os.replace(part, self._path)
            self._on_saved(self._path)
        except (OSError, SafetensorError) as error:
            log.warning("the checkpoint %s is not saved: %s", self._path, error)
        self._saved_s = time.monotonic()
        if is_last:
            self._then()

    def remove(self) -> None:
        """The clip is made, or nobody wants it."""
        for path in (self._path, self._path.with_suffix(".part")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s is not removed: %s", path, error)
