# SPDX-License-Identifier: GPL-3.0-or-later
"""A take that is there, once more: what it was made with, and the same with another seed for one window.  No Blender in
here.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ..errors import SettingsError
from ..shot.pictures import GIVEN
from ..shot.plan import FINE
from ..shot.resolved import MAX_SEED, KeyChoice, ResolvedSettings
from .adherence_figures import worst_window
from .job_options import EXACT
from .library import TakeEntry


def settings_again(entry: TakeEntry, settings: ResolvedSettings) -> ResolvedSettings:
    """``settings`` of the scene with everything that the take ``entry`` says it was made with, but its camera.  Key
    pictures stay those of the scene, at the take's frames where it says which it had."""
    report = entry.report
    keeps, size = report.get("keep_detail"), report.get("model_size")
    options = report.get("options", {})
    frames = tuple(report.get("frame_numbers", settings.frames))
    return replace(
        settings,
        **_pictures(report, settings, frames),
        model=report["model"],
        prompt=report.get("prompt", ""),
        prompts_at=tuple((frame, words) for frame, words in report.get("prompts_at", ())),
        negative_prompt=report.get("negative_prompt", ""),
        seed=report["seed"],
        steps=report.get("num_inference_steps", 0),
        guidance=report.get("guidance_scale", 0.0),
        size=None if size is None else tuple(size),
        tracking_range=report.get("tracking_range", ""),
        compose=FINE if report.get("fine_detail_only") else settings.compose if keeps is None else bool(keeps),
        background=report.get("background", settings.background),
        frames=frames,
        model_frames_every=report.get("model_frames_every", settings.model_frames_every),
        loras=tuple((str(name), float(weight)) for name, weight, *_ in options.get("loras", ())),
        speed=options.get("speed", EXACT),
        window_seeds=tuple((int(number), seed) for number, seed in report.get("window_seeds", {}).items()),
        anew=False,
        part=None,
    )


def _pictures(report: dict, settings: ResolvedSettings, frames: tuple[int, ...]) -> dict:
    """The first frame and the key pictures of a take of ``frames``: of the user's own pictures those that it had."""
    made_of, keys = report.get("key_pictures", ()), settings.key_pictures
    if not made_of or not all(isinstance(one, dict) and one.get("origin") for one in made_of):
        inside = None if keys is None else tuple(key for key in keys if key.frame in frames[1:])
        return {"key_pictures": inside}
    own = {choice.frame: choice for choice in (*(keys or ()), settings.first)}
    chosen = [
        own.get(one["frame"], KeyChoice(one["frame"])) if one["origin"] == GIVEN else KeyChoice(one["frame"])
        for one in made_of
    ]
    first, *others = chosen
    return {"first_frame_path": first.path, "first_frame_image": first.image, "key_pictures": tuple(others)}


def window_again(
    settings: ResolvedSettings, report: dict, seed: int | None = None
) -> tuple[ResolvedSettings, int, int]:
    """(``settings`` of a take with another ``seed`` for its worst window, that window's number from 1 on, the seed).

    ``report``: of `adherence`.  ``seed`` None: any other.  Raises `SettingsError` for a take of one window, for one of
    which nothing can be told, and for the seed that the window has.
    """
    if len(report["windows"]) < 2:
        raise SettingsError(
            "The take has one window only, so it would be made anew as a whole: render it with another seed.",
            field="take",
        )
    number = worst_window(report)
    if number is None:
        raise SettingsError(
            "None of the take's windows has enough texture to tell which is the worst; name one with its seed: "
            "--window-seeds 2:17.",
            field="take",
        )
    had = dict(settings.window_seeds)
    before = had.get(number, settings.seed)
    if seed is None:
        seed = random.Random(f"{before} {number}").randrange(MAX_SEED)
        seed += seed == before
    if seed == before:
        raise SettingsError(f"The window {number} was made with the seed {seed}; name another one.", field="seed")
    return replace(settings, window_seeds=tuple(sorted({**had, number: seed}.items()))), number, seed
