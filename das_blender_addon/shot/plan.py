# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot as a model will see it (`ShotPlan`); `tracked` is what comes of it.  No Blender in here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ModelError, SettingsError
from ..protocol.messages import Capabilities, ModelCapability
from ..protocol.sizes import advice, makes_size
from ..tracking.framing import Framing, fit_framing, picture_framing
from .windows import MOST_EVERY, Window, cut_into_windows, frames_every, made_frames

CARRIED = "carried_video"
"""Input of models that are given what the key pictures show of every frame, and paint what is missing."""
BLACK, SKY = "black", "sky"
"""What the tracking video shows where there is no surface: nothing, or places at infinity (`tracking.sky`)."""
CARRIED_HOLES = "carried_holes"
"""Input of models that are told where that is nothing, and make those places themselves."""
REFERENCES = "references"
"""Input of models that are shown key pictures of other frames than their clip's."""
FINE = "fine"
"""Of the key pictures' detail only what is finer than the model's pixels is kept; light and tone are the model's."""
MOST_OVERSCAN = 3.0
"""How many times the shot's picture the model's may be, for pictures at the render's size: all of it is rendered."""
NARROW = "The shot's shape is far from any of the model's: key pictures and frames have the model's size."


@dataclass(frozen=True)
class ShotPlan:
    """What will be sent for a shot.

    ``frames``: Blender frame numbers, increasing; the first is the first frame.  ``frames_per_second``: of these, 0
    where that is not known.  ``made``: those (0-based) that the model makes, every ``every``-th, see `made_frames`; the
    others are composed from their neighbours among them.  ``windows``: its clips, places in ``made``.
    ``render_size``, ``model_size``: (width, height) in pixels.  ``framing``: where the shot's picture lies in the
    model's.  ``keeps_detail``: the key pictures' own pixels are carried along wherever their surfaces are seen;
    ``fine_only``: of them only the fine detail, over the model's light and tone.
    ``pictures``: where the shot's picture lies in its key pictures; those have the render's density where detail is
    kept, else they are the model's pictures.  ``keys``: frames (0-based) of the key pictures, increasing, from 0 on.
    ``pixel_aspect``: (x, y) of the render's pixels.  ``transparent_film``: what no surface covers has alpha 0.
    ``sky``: the sky is in the tracking video.  ``notes``: all of it in words, one sentence each.
    """

    frames: tuple[int, ...]
    frames_per_second: float
    every: int
    made: tuple[int, ...]
    windows: tuple[Window, ...]
    render_size: tuple[int, int]
    model_size: tuple[int, int]
    framing: Framing
    keeps_detail: bool
    fine_only: bool
    pictures: Framing
    keys: tuple[int, ...]
    pixel_aspect: tuple[float, float]
    model: ModelCapability
    notes: tuple[str, ...]
    transparent_film: bool = False
    sky: bool = False

    @property
    def picture_size(self) -> tuple[int, int]:
        """(width, height) of the key pictures in pixels."""
        return self.pictures.model_size

    @property
    def reads_carried(self) -> bool:
        """Whether the model is given what the key pictures show."""
        return CARRIED in self.model.inputs

    @property
    def reads_holes(self) -> bool:
        """Whether the model is told where the key pictures show nothing."""
        return self.reads_carried and CARRIED_HOLES in self.model.inputs

    @property
    def between(self) -> tuple[int, ...]:
        """Frames (0-based) that the model does not make."""
        made = set(self.made)
        return tuple(index for index in range(len(self.frames)) if index not in made)

    def place(self, index: int) -> int:
        """The place in ``made`` of the frame ``index`` (0-based), or of the last one before it."""
        return bisect_right(self.made, index) - 1

    def references_for(self, window: Window) -> tuple[int, ...]:
        """The key pictures' frames (0-based) that the model is shown beside the clip of ``window``, which does not hold
        them: the last before it and the first after it, for a model that reads such."""
        if REFERENCES not in self.model.inputs:
            return ()
        made = self.made_in(window)
        before = [key for key in self.keys if key < made[0]]
        after = [key for key in self.keys if key > made[-1]]
        return (*before[-1:], *after[:1])

    def made_in(self, window: Window) -> tuple[int, ...]:
        """The frames (0-based) that the model makes in ``window``."""
        return self.made[window.start : window.stop]

    def held_in(self, window: Window) -> np.ndarray:
        """[window.length] i64: the frames (0-based) that fill the model's clip; the last one is held."""
        return np.array(self.made)[window.held]


def check_frames(frames: Sequence[int]) -> tuple[int, ...]:
    """``frames`` as a tuple of ints.  Raises `SettingsError` when they are not whole, increasing, or there are none."""
    try:
        numbers = tuple(int(frame) for frame in frames)
        whole = all(number == frame for number, frame in zip(numbers, frames, strict=True))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The frames are {frames!r}; give a list of frame numbers.", field="frames") from error
    if not numbers:
        raise SettingsError("There are no frames; give at least one.", field="frames")
    if not whole or any(after <= before for before, after in zip(numbers, numbers[1:], strict=False)):
        raise SettingsError(f"The frames are {list(frames)!r}; give increasing whole numbers.", field="frames")
    return numbers


def plan(
    frames: Sequence[int],
    render_size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    capabilities: Capabilities,
    *,
    model: str = "",
    size: tuple[int, int] | None = None,
    picture_size: tuple[int, int] | None = None,
    large_if_fast: bool = False,
    keep_detail: bool | str | None = None,
    transparent_film: bool = False,
    model_frames_every: int = 0,
    frames_per_second: float = 0.0,
    background: str = BLACK,
) -> ShotPlan:
    """Fit a shot to a model of a server: as few windows as hold it, the size nearest to its shape.

    ``model`` "": the server's default.  ``size`` (width, height): one that the model makes.  None: the
    ``picture_size`` of a first frame of the user's own, where the model makes that; else the size of the model's list
    whose aspect ratio is nearest to the render's: the model's default among those of one shape or, with
    ``large_if_fast`` and where the server says that the model is fast there, the largest.  ``keep_detail`` None: with
    models that are made for it; `FINE`: see `ShotPlan.fine_only`.  ``model_frames_every`` 0: as is nearest to the
    frames per second that the model was trained at; ``frames_per_second``: of Blender's frames, 0 where that is not
    known.  ``background``: `BLACK` or `SKY`.

    Raises `SettingsError` (unknown model, size that the model does not have, ``keep_detail``, ``model_frames_every``,
    ``background``) and `ModelError` (its weights are not installed).  One function, though long: most of it says,
    field by field, what is asked and what is planned.
    """
    frames, keep_detail = check_frames(frames), check_detail(keep_detail)
    chosen = choose_model(capabilities, model)
    rate = frame_rate(frames, frames_per_second)
    every = check_every(model_frames_every) or frames_every(rate, chosen.frames_per_second)
    made = made_frames(len(frames), every)
    follows_picture = size is None and picture_size is not None and makes_size(chosen, *picture_size)
    if follows_picture:
        size = picture_size
    usual_size = _choose_size(chosen, size, render_size, pixel_aspect)
    model_size = usual_size
    if large_if_fast and chosen.is_fast:
        model_size = _choose_size(chosen, size, render_size, pixel_aspect, largest=True)
    framing = fit_framing(render_size, model_size, pixel_aspect=pixel_aspect[0] / pixel_aspect[1])
    keeps_detail = CARRIED in chosen.inputs if keep_detail is None else bool(keep_detail)
    is_narrow = math.prod(framing.overscan_scale) > MOST_OVERSCAN
    keeps_detail = keeps_detail and not is_narrow
    planned = ShotPlan(
        frames=frames,
        frames_per_second=rate,
        every=every,
        made=made,
        windows=cut_into_windows(len(made), chosen.num_frames),
        render_size=tuple(render_size),
        model_size=model_size,
        framing=framing,
        keeps_detail=keeps_detail,
        fine_only=keeps_detail and keep_detail == FINE,
        pictures=picture_framing(framing) if keeps_detail else framing,
        keys=(0,),
        pixel_aspect=tuple(pixel_aspect),
        transparent_film=bool(transparent_film),
        sky=has_sky(background),
        model=chosen,
        notes=(
            *_notes(
                frames,
                framing,
                chosen,
                keeps_detail=keeps_detail,
                fine_only=keeps_detail and keep_detail == FINE,
                enlarged=model_size != usual_size,
                follows_picture=follows_picture,
            ),
            *([NARROW] if is_narrow else ()),
        ),
    )
    return replace(planned, notes=(*planned.notes, *_window_notes(planned)))


def plan_with_keys(planned: ShotPlan, keys: Sequence[int]) -> ShotPlan:
    """``planned`` with key pictures at the frames ``keys`` (0-based) besides the first, cut there where that helps, and
    said in its notes.
    """
    keys = tuple(sorted({0, *keys}))
    made = made_frames(len(planned.frames), planned.every, keys)
    # A model that is given what the key pictures show need not begin at one.
    begins = () if planned.reads_carried else [bisect_right(made, key) - 1 for key in keys]
    windows = cut_into_windows(len(made), planned.model.num_frames, begins)
    before = set(_window_notes(planned))
    notes = tuple(note for note in planned.notes if note not in before)
    planned = replace(planned, keys=keys, made=made, windows=windows, notes=notes)
    return replace(planned, notes=(*notes, *_window_notes(planned)))


def frame_rate(frames: Sequence[int], frames_per_second: float) -> float:
    """How many of ``frames`` make a second, of which ``frames_per_second`` of Blender's do."""
    steps = len(frames) - 1
    return frames_per_second * steps / (frames[-1] - frames[0]) if steps > 0 else frames_per_second


def check_detail(keep: bool | str | None) -> bool | str | None:
    """``keep`` as None, True, False or `FINE`; "whole" stands for True.  Raises `SettingsError`."""
    if keep is not None and not isinstance(keep, bool) and keep not in (FINE, "whole"):
        raise SettingsError(
            f"The key pictures' detail cannot be kept {keep!r}; give True or 'whole', {FINE!r}, False, or None for "
            "what the model is made for.",
            field="compose",
        )
    return True if keep == "whole" else keep


def has_sky(background: str) -> bool:
    """Whether the sky is tracked with ``background``, `BLACK` or `SKY`.  Raises `SettingsError` for another one."""
    if background not in (BLACK, SKY):
        raise SettingsError(f"The background cannot be {background!r}; give {BLACK!r} or {SKY!r}.", field="background")
    return background == SKY


def check_every(every: int) -> int:
    """``every`` as an int from 0 to `MOST_EVERY`.  Raises `SettingsError`."""
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or not 0 <= every <= MOST_EVERY:
        raise SettingsError(
            f"The model cannot make one of every {every!r} frames; give a whole number from 1 to {MOST_EVERY}, or 0 "
            "for what its own frame rate says.",
            field="model_frames_every",
        )
    return int(every)


def _window_notes(planned: ShotPlan) -> Iterator[str]:
    frames, windows, made = planned.frames, planned.windows, planned.made
    if len(planned.keys) > 1:
        yield f"Key pictures at the frames {', '.join(str(frames[key]) for key in planned.keys)}."
    if len(made) < len(frames):
        rate = planned.frames_per_second
        share = f" ({rate / planned.every:.3g} of {rate:.4g} per second)" if rate else ""
        which = _ordinal(planned.every)
        yield f"The model makes every {which} frame{share}; the frames between are composed from them."
    if len(windows) > 1:
        parts = ", ".join(f"{frames[made[one.start]]} to {frames[made[one.stop - 1]]}" for one in windows)
        yield f"The model makes the shot in {len(windows)} windows, {parts}; each passes into the next."
    last = windows[-1]
    if last.length > last.count:
        held = last.length - last.count
        yield f"The last frame is held {held} times to fill the model's window of {last.length}; those are cut."


def _ordinal(number: int) -> str:
    last = number % 10 if number // 10 % 10 != 1 else 0
    return str(number) + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


def choose_model(capabilities: Capabilities, name: str) -> ModelCapability:
    """The model ``name`` of a server, "" for its default.

    Raises `SettingsError` for one that it does not have, `ModelError` where its weights are not installed.
    """
    models = {model.name: model for model in capabilities.models}
    name = name or capabilities.default_model
    if name not in models:
        raise SettingsError(
            f"The server has no model {name!r}; it offers {', '.join(sorted(models)) or 'none'}.", field="model"
        )
    if not models[name].installed:
        raise ModelError(f"The weights of the model {name!r} are not installed on the server; install them there.")
    return models[name]


def _choose_size(
    model: ModelCapability,
    size: tuple[int, int] | None,
    render_size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    *,
    largest: bool = False,
) -> tuple[int, int]:
    if size is not None:
        if not makes_size(model, *size):
            raise SettingsError(
                f"The model {model.name!r} does not make {size[0]}×{size[1]} pixels; {advice(model, *size)}.",
                field="size",
            )
        return int(size[0]), int(size[1])
    sizes = [(int(width), int(height)) for width, height in model.sizes]
    shape = math.log(render_size[0] * pixel_aspect[0] / (render_size[1] * pixel_aspect[1]))

    def distance(pair: tuple[int, int]) -> float:
        return round(abs(math.log(pair[0] / pair[1]) - shape), 6)

    nearest = [pair for pair in sizes if distance(pair) == min(map(distance, sizes))]
    return max(nearest, key=math.prod) if largest else nearest[0]


def _notes(
    frames: tuple[int, ...],
    framing: Framing,
    model: ModelCapability,
    *,
    keeps_detail: bool,
    fine_only: bool,
    enlarged: bool,
    follows_picture: bool,
) -> Iterator[str]:
    count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
    yield f"{count} ({frames[0]} to {frames[-1]}) for {model.label}."
    model_width, model_height = framing.model_size
    if framing.is_exact:
        yield f"The model's picture of {model_width}×{model_height} is the render's."
    else:
        wider, higher = framing.overscan_scale
        sees = "sees what the shot sees"
        if max(wider, higher) > 1.0:
            side = "width" if wider > higher else "height"
            sees = f"sees {max(wider, higher):.2f} times the {side} of the shot"
        width, height = framing.render_size
        becomes = "the result is cropped to the shot and resized (Lanczos) to"
        if keeps_detail:
            becomes = "the key pictures' own pixels are carried along, and it fills what they do not show, at"
            if fine_only:
                becomes = "light and tone are its own, the key pictures' fine detail is carried along, at"
        yield f"The model makes {model_width}×{model_height} and {sees}; {becomes} {width}×{height}."
    if follows_picture:
        yield f"The automatic size is {model_width}×{model_height}, the first frame's that is there."
    if enlarged:
        yield "The server was fast enough for the largest size; in the background the automatic size is smaller."
    if not model.uses_prompt:
        yield "This model ignores the prompt."
