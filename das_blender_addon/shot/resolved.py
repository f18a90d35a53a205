# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a shot as plain values, after everything that may override them.  No Blender in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..protocol.messages import BATCH, INTERACTIVE

MAX_SEED, MAX_GUIDANCE = 2**31 - 1, 50.0
SPEEDS = ("exact", "fast", "preview")
PRIORITIES = {"batch": BATCH, "interactive": INTERACTIVE}


@dataclass(frozen=True)
class KeyChoice:
    """A key picture that was chosen: its Blender ``frame``, and ``path``, a file, or ``image``, a data block of the
    file, of its user's own; "" for the one in the cache.
    """

    frame: int
    path: str = ""
    image: str = ""


@dataclass(frozen=True)
class ResolvedSettings:
    """The settings of a shot after every override.

    ``model`` "": the server's default.  ``steps`` 0, ``guidance`` 0.0 and ``tracking_range`` "": the model's
    defaults. ``size``: (width, height) of the model in pixels, None for the model's default.  ``frames``: the
    window's frame numbers, increasing.  ``first_frame_path``, ``first_frame_image`` (a data block of the file)
    "": the one in the cache.  ``new_first_frame``: render it
    although one that was rendered is there.  ``cache_folder``: absolute.
    ``compose``: carry the key pictures' own pixels along, None as the model is made for, `plan.FINE` only their fine
    detail.  ``key_pictures``: those besides the first frame, frames increasing; None for as many as the shot needs, ()
    for none.
    ``model_frames_every``: of so many frames the model makes one, 0: as its own frame rate says.
    ``background``: of the tracking video, "black" or "sky".  ``view``: of a stereoscopic scene, by its name.
    ``timeout_s``: seconds of silence.  ``anew``: make the take although a finished one is there.
    ``camera``: the name of the one that sees every frame, "" for the scene's own and those that are bound to markers.
    ``prompts_at``: (Blender frame, prompt from there on), frames increasing; a window has that of its first frame, ""
    for ``prompt``.
    ``anew_as``: a word that names the jobs of a take that is made anew, so that it can be gone on with.  ``resumes``:
    (window from 0 on, id of the job that it must be), for a take that goes on.
    ``part`` (number from 1 on, of how many): only these windows of it.  ``priority``: a key of `PRIORITIES`, "" for
    that of who asks.  ``measure``: measure whether the take follows its animation.  ``window_seeds``: (number from 1
    on, seed) of windows that have a seed of their own.  ``loras``: (name, weight) of each adapter of the
    model.  ``speed``: one of `SPEEDS`, "" for the server's own.
    """

    server: str
    timeout_s: float
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    size: tuple[int, int] | None
    tracking_range: str
    compose: bool | str | None
    frames: tuple[int, ...]
    first_frame_path: str
    first_frame_image: str
    first_frame_engine: str
    first_frame_samples: int
    cache_folder: Path
    key_pictures: tuple[KeyChoice, ...] | None = None
    new_first_frame: bool = False
    anew: bool = False
    part: tuple[int, int] | None = None
    model_frames_every: int = 0
    priority: str = ""
    background: str = "black"
    view: str = ""
    measure: bool = False
    window_seeds: tuple[tuple[int, int], ...] = ()
    loras: tuple[tuple[str, float], ...] = ()
    speed: str = ""
    camera: str = ""
    prompts_at: tuple[tuple[int, str], ...] = ()
    anew_as: str = ""
    resumes: tuple[tuple[int, str], ...] = ()

    def priority_for(self, *, in_window: bool) -> int:
        """What a server is told: jobs of a window go before others, unless something else is chosen."""
        return PRIORITIES.get(self.priority, INTERACTIVE if in_window else BATCH)

    @property
    def first(self) -> KeyChoice:
        """The first frame as a key picture like any other."""
        return KeyChoice(self.frames[0], self.first_frame_path, self.first_frame_image)
