# SPDX-License-Identifier: GPL-3.0-or-later
"""Which value of a setting counts: the environment goes before the scene, the scene before a local server that was
started from here, that one before the add-on preferences, those before the defaults.

A farm can so override every setting of a file without opening it.  One file, though long: the order in which values
count is seen for all settings at once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import bpy

from ..errors import SettingsError
from ..protocol.kinds import MAX_PROMPT, MAX_TEXT
from ..scene.camera import cameras_at
from . import machine as machines
from .plan import BLACK, FINE, SKY
from .prompts import check_prompt, prompt_of_file, prompt_of_text, prompts_at_markers
from .resolved import MAX_GUIDANCE, MAX_SEED, PRIORITIES, SPEEDS, KeyChoice, ResolvedSettings
from .scene_shot import frame_range, shot_frames
from .server_consent import chosen_server
from .windows import MOST_EVERY

FIRST_FRAME_ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")
TRACKING_RANGES = ("signed", "unit")
MAX_SAMPLES = 65536
MAX_SIDE = 1 << 16
"""Longest side of a picture that Blender renders, pixels."""
READ = 100
"""Characters; a number or range that is longer is not read."""
ENVIRONMENT = (
    "DAS_SERVER",
    "DAS_TIMEOUT_S",
    "DAS_MODEL",
    "DAS_PROMPT",
    "DAS_PROMPT_FILE",
    "DAS_NEGATIVE_PROMPT",
    "DAS_SEED",
    "DAS_STEPS",
    "DAS_GUIDANCE",
    "DAS_SIZE",
    "DAS_TRACKING_RANGE",
    "DAS_BACKGROUND",
    "DAS_VIEW",
    "DAS_CAMERA",
    "DAS_COMPOSE",
    "DAS_MODEL_FRAMES_EVERY",
    "DAS_KEY_PICTURES",
    "DAS_FRAMES",
    "DAS_FIRST_FRAME",
    "DAS_FIRST_FRAME_ENGINE",
    "DAS_FIRST_FRAME_SAMPLES",
    "DAS_CACHE",
    "DAS_NEW_FIRST_FRAME",
    "DAS_ANEW",
    "DAS_WINDOWS",
    "DAS_PRIORITY",
    "DAS_MEASURE",
    "DAS_WINDOW_SEEDS",
    "DAS_LORA",
    "DAS_SPEED",
)
"""Every environment variable that overrides a setting."""


def resolve_settings(scene, environment=None) -> ResolvedSettings:
    """The settings of ``scene`` after environment, scene, preferences and defaults, in this order.

    Raises `SettingsError` that names the variable or field whose value cannot be used.
    """
    environment = os.environ if environment is None else environment
    settings = scene.das
    machine = machines.machine_settings()

    first_frame_engine = environment.get("DAS_FIRST_FRAME_ENGINE", "").upper() or settings.first_frame_engine
    if first_frame_engine not in FIRST_FRAME_ENGINES:
        raise SettingsError(
            f"DAS_FIRST_FRAME_ENGINE is {first_frame_engine!r}; use one of {', '.join(FIRST_FRAME_ENGINES)}.",
            field="first_frame_engine",
        )
    frames = parse_frames(said) if (said := environment.get("DAS_FRAMES", "")) else shot_frames(scene)
    camera = _text(environment, "DAS_CAMERA", "")
    listed_at = frames[0] if _is_own_camera(scene, camera, frames) else None
    first_path, first_image = _first_frame(environment, settings, listed_at)
    keys = _key_pictures(environment.get("DAS_KEY_PICTURES", ""), settings, frames)
    return ResolvedSettings(
        server=chosen_server(scene, environment),
        timeout_s=_number(environment, "DAS_TIMEOUT_S", float, machine.timeout_s, low=1.0, high=86400.0),
        model=_text(environment, "DAS_MODEL", "") or settings.model,
        prompt=_prompt(environment, settings),
        prompts_at=() if _says_prompt(environment) else prompts_at_markers(scene),
        negative_prompt=_text(environment, "DAS_NEGATIVE_PROMPT", settings.negative_prompt, MAX_PROMPT),
        seed=_number(environment, "DAS_SEED", int, settings.seed, low=0, high=MAX_SEED),
        steps=_number(environment, "DAS_STEPS", int, settings.steps, low=0, high=1000),
        guidance=_number(environment, "DAS_GUIDANCE", float, settings.guidance, low=0.0, high=MAX_GUIDANCE),
        size=parse_size(environment.get("DAS_SIZE", "") or settings.size),
        tracking_range=_tracking_range(environment.get("DAS_TRACKING_RANGE", "") or settings.tracking_range),
        view=stereo_view(scene, environment),
        camera=camera,
        background=_background(environment.get("DAS_BACKGROUND", "") or settings.background),
        compose=_detail(environment, settings.compose),
        frames=frames,
        first_frame_path=first_path,
        first_frame_image=first_image,
        first_frame_engine=first_frame_engine,
        first_frame_samples=_number(
            environment, "DAS_FIRST_FRAME_SAMPLES", int, settings.first_frame_samples, low=1, high=MAX_SAMPLES
        ),
        cache_folder=_cache_folder(environment.get("DAS_CACHE", "") or settings.cache_folder or machine.cache_folder),
        key_pictures=keys_of_camera(keys, scene, camera, frames),
        new_first_frame=_switch(environment, "DAS_NEW_FIRST_FRAME", False),
        anew=_switch(environment, "DAS_ANEW", False),
        part=_part(environment.get("DAS_WINDOWS", "")),
        model_frames_every=_every(environment, settings.model_frames_every),
        priority=_priority(environment.get("DAS_PRIORITY", "")),
        measure=_switch(environment, "DAS_MEASURE", settings.measure),
        window_seeds=parse_window_seeds(environment.get("DAS_WINDOW_SEEDS", "")),
        loras=parse_loras(_text(environment, "DAS_LORA", settings.loras)),
        speed=parse_speed(environment.get("DAS_SPEED", "") or settings.speed),
    )


def stereo_view(scene, environment=None) -> str:
    """The name of the view that is taken of a stereoscopic scene, "" of another one."""
    if not scene.render.use_multiview:
        return ""
    environment = os.environ if environment is None else environment
    settings = getattr(scene, "das", None)
    return environment.get("DAS_VIEW", "") or (settings.stereo_view if settings is not None else "")


def parse_loras(text: str) -> tuple[tuple[str, float], ...]:
    """``"ink:0.8, grain"`` as ((name, weight), …), 1 where no weight is said.  Raises `SettingsError`."""
    loras = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, colon, weight = (part.strip() for part in word.partition(":"))
        match = _match(r"([-+]?(?:\d+\.?\d*|\.\d+))", weight) if colon else None
        if not name or (colon and match is None):
            raise SettingsError(f"The LoRA {_short(word)} cannot be read; write NAME or NAME:0.8.", field="loras")
        if name in dict(loras):
            raise SettingsError(f"The LoRAs {_short(text)} name {_short(name)} twice: keep one.", field="loras")
        loras.append((name, float(match[1]) if match else 1.0))
    return tuple(loras)


def check_loras(loras) -> tuple[tuple[str, float], ...]:
    """Adapters as a caller of the API names them, {name: weight} or "name:0.8", as ((name, weight), …).

    Raises `SettingsError`."""
    if isinstance(loras, str):
        return parse_loras(loras)
    try:
        return tuple((str(name), float(weight)) for name, weight in dict(loras).items())
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The LoRAs {loras!r} cannot be read; give {{name: weight}}.", field="loras") from error


def parse_speed(text: str) -> str:
    """A speed by name, "" for the server's own.  Raises `SettingsError`."""
    name = text.strip().lower()
    if name not in ("auto", *SPEEDS):
        raise SettingsError(f"The speed is {_short(text)}; use AUTO, {', '.join(SPEEDS)}.", field="speed")
    return "" if name == "auto" else name


def parse_frames(text: str) -> tuple[int, ...]:
    """``"7"``, ``"1-49"`` or ``"1-49x2"`` (every second one) as frame numbers.

    Raises `SettingsError`, and what `frame_range` raises.
    """
    match = _match(r"(-?\d+)(?:\s*-\s*(-?\d+)(?:\s*x\s*(\d+))?)?", text)
    if match is None:
        raise SettingsError(f"The frames {_short(text)} cannot be read; write 7, 1-49 or 1-49x2.", field="frames")
    start, end, step = match.groups()
    return frame_range(int(start), int(end or start), int(step or 1))


def parse_size(text: str) -> tuple[int, int] | None:
    """``"720x480"`` as (width, height) in pixels; ``""`` and ``"AUTO"`` as None.  Raises `SettingsError`."""
    if text.strip().upper() in ("", "AUTO"):
        return None
    match = _match(r"(\d+)\s*[x×]\s*(\d+)", text)
    size = (0, 0) if match is None else (int(match[1]), int(match[2]))
    if 0 in size or max(size) > MAX_SIDE:
        raise SettingsError(
            f"The size {_short(text)} cannot be read; write AUTO or WIDTHxHEIGHT, for example 720x480.", field="size"
        )
    return size


def _match(pattern: str, text: str) -> re.Match[str] | None:
    """``text`` read as a whole, with the digits 0 to 9 only; None, too, where it is too long to mean anything."""
    return None if len(text) > READ else re.fullmatch(rf"\s*{pattern}\s*", text, re.IGNORECASE | re.ASCII)


def _short(text: str) -> str:
    return repr(text if len(text) <= READ else text[:READ] + "…")


def _number(environment, name: str, kind, otherwise, *, low, high):
    text = environment.get(name, "")
    if not text:
        return otherwise
    match = _match(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)" if kind is float else r"([-+]?\d+)", text)
    if match is None:
        raise SettingsError(
            f"{name} is {_short(text)}, which is no {'whole number' if kind is int else 'number'}.", field=name
        )
    value = kind(match[1])
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text}; it goes from {low} to {high}.", field=name)
    return value


def _every(environment, otherwise: int) -> int:
    """Every how many frames the model makes one; 0 for "auto"."""
    name = "DAS_MODEL_FRAMES_EVERY"
    if environment.get(name, "").strip().lower() == "auto":
        return 0
    return _number(environment, name, int, otherwise, low=0, high=MOST_EVERY)


def _text(environment, name: str, otherwise: str, most: int = MAX_TEXT) -> str:
    """A text of people's own, or a name, of at most ``most`` characters.  Raises `SettingsError` where nobody could
    send it."""
    text = environment.get(name, otherwise)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{name} is {_short(text)}, which is no valid UTF-8 at character {error.start + 1}; write it anew.",
            field=name,
        ) from error
    if len(text) > most:
        raise SettingsError(f"{name} has {len(text)} characters; it takes {most} at most.", field=name)
    return text


def _says_prompt(environment) -> bool:
    return bool(environment.get("DAS_PROMPT", "") or environment.get("DAS_PROMPT_FILE", ""))


def _prompt(environment, settings) -> str:
    """The environment's words, its file, the scene's text, its words."""
    file, text = environment.get("DAS_PROMPT_FILE", ""), settings.prompt_text
    if environment.get("DAS_PROMPT", "") or not (file or text):
        return _text(environment, "DAS_PROMPT", settings.prompt, MAX_PROMPT)
    if file:
        return check_prompt(prompt_of_file(_absolute(file)), f"The prompt {file}")
    return check_prompt(prompt_of_text(text.as_string()), f"The text {text.name!r}")


def _tracking_range(text: str) -> str:
    """The tracking range by name, "" for the model's own."""
    name = text.strip().lower()
    if name != "auto" and name not in TRACKING_RANGES:
        raise SettingsError(
            f"DAS_TRACKING_RANGE is {text!r}; use AUTO, {' or '.join(TRACKING_RANGES)}.", field="tracking_range"
        )
    return "" if name == "auto" else name


def _background(text: str) -> str:
    name = text.strip().lower()
    if name not in (BLACK, SKY):
        raise SettingsError(f"DAS_BACKGROUND is {_short(text)}; use {BLACK} or {SKY}.", field="background")
    return name


def _part(text: str) -> tuple[int, int] | None:
    """``"2/5"`` as (2, 5); None for the whole.  Raises `SettingsError`."""
    if not text.strip():
        return None
    match = _match(r"(\d{1,6})\s*/\s*(\d{1,6})", text)
    number, of = (0, 0) if match is None else (int(match[1]), int(match[2]))
    if not 1 <= number <= of:
        raise SettingsError(
            f"The part of the windows {_short(text)} cannot be read; write 2/5 for the second of five.", field="windows"
        )
    return number, of


def parse_window_seeds(text: str) -> tuple[tuple[int, int], ...]:
    """``"2:17,5:3"`` as windows, counted from 1, and their seeds.  Raises `SettingsError`."""
    found = []
    for part in text.split(",") if text.strip() else ():
        match = _match(r"(\d{1,6})\s*:\s*(\d{1,10})", part)
        number, seed = (0, 0) if match is None else (int(match[1]), int(match[2]))
        if number < 1 or seed > MAX_SEED or number in dict(found):
            raise SettingsError(
                f"The seeds of windows {_short(text)} cannot be read; write 2:17,5:3 for the second window's and the "
                f"fifth's, each up to {MAX_SEED}.",
                field="window_seeds",
            )
        found.append((number, seed))
    return tuple(sorted(found))


_KEY_FRAMES = re.compile(r"\s*-?\d{1,9}\s*(?:,\s*-?\d{1,9}\s*)*", re.ASCII)


def parse_key_frames(text: str) -> tuple[int, ...]:
    """``"1,25,49"`` as frame numbers, increasing.  Raises `SettingsError`."""
    if len(text) > MAX_TEXT or _KEY_FRAMES.fullmatch(text) is None:
        raise SettingsError(
            f"The key pictures {_short(text)} cannot be read; write auto, first, or frames: 1,25,49.",
            field="key_pictures",
        )
    frames = tuple(int(word) for word in text.split(","))
    twice = next((frame for frame in frames if frames.count(frame) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two key pictures are at frame {twice}: keep one of them.", field="key_pictures")
    return tuple(sorted(frames))


def _key_pictures(text: str, settings, frames: tuple[int, ...]) -> tuple[KeyChoice, ...] | None:
    """The key pictures besides the first frame; None for as many as the shot needs.

    Raises `SettingsError` for a frame that is not in the shot.
    """
    mode = text.strip().lower() or settings.key_mode.lower()
    if mode == "auto":
        return None
    if mode == "first":
        return ()
    if mode == "list":
        chosen = [_key_choice(key) for key in settings.key_pictures]
        twice = next((one.frame for one in chosen if [other.frame for other in chosen].count(one.frame) > 1), None)
        if twice is not None:
            raise SettingsError(f"Two key pictures are at frame {twice}: remove one of them.", field="key_pictures")
    else:
        return chosen_keys(parse_key_frames(text), settings, frames)
    return _within(chosen, frames)


def chosen_keys(wanted, settings, frames: tuple[int, ...]) -> tuple[KeyChoice, ...] | None:
    """The key pictures at the Blender frames ``wanted``, with the pictures of the scene's list; None for "auto".

    Raises `SettingsError` for a frame that is not one of the shot's ``frames``, one that comes twice, and what are no
    frames.
    """
    if isinstance(wanted, str):
        word = wanted.strip().lower()
        if word == "auto":
            return None
        wanted = () if word == "first" else parse_key_frames(wanted)
    try:
        asked = [int(frame) for frame in wanted]
        whole = all(number == frame for number, frame in zip(asked, wanted, strict=True))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise SettingsError(
            f"The key pictures are {wanted!r}; give a list of frame numbers, auto or first.", field="key_pictures"
        )
    twice = next((frame for frame in asked if asked.count(frame) > 1), None)
    if twice is not None:
        raise SettingsError(f"Two key pictures are at frame {twice}: keep one of them.", field="key_pictures")
    own = {key.frame: _key_choice(key) for key in settings.key_pictures}
    return _within([own.get(frame) or KeyChoice(frame) for frame in asked], frames)


def keys_of_camera(keys, scene, camera: str, frames: tuple[int, ...]) -> tuple[KeyChoice, ...] | None:
    """``keys`` for a shot that ``camera`` sees: pictures in the scene's list are the scene's own camera's, another one
    has their frames only.
    """
    if keys is None or _is_own_camera(scene, camera, frames):
        return keys
    return tuple(KeyChoice(one.frame) for one in keys)


def _is_own_camera(scene, camera: str, frames: tuple[int, ...]) -> bool:
    return not camera or cameras_at(scene, frames) == ((frames[0], camera),)


def _within(chosen: list[KeyChoice], frames: tuple[int, ...]) -> tuple[KeyChoice, ...]:
    outside = next((one.frame for one in chosen if one.frame not in frames), None)
    if outside is not None:
        raise SettingsError(
            f"The key picture at frame {outside} is not in the shot, {frames[0]} to {frames[-1]}"
            + (f" in steps of {frames[1] - frames[0]}" if len(frames) > 1 and frames[1] - frames[0] > 1 else "")
            + ": move or remove it.",
            field="key_pictures",
        )
    return tuple(sorted((one for one in chosen if one.frame != frames[0]), key=lambda one: one.frame))


def _key_choice(key) -> KeyChoice:
    image = "" if key.path or key.image is None else key.image.name_full
    return KeyChoice(key.frame, _absolute(key.path), image)


_DETAIL = {"AUTO": None, "ON": True, "FINE": FINE, "OFF": False}


def _detail(environment, otherwise: str) -> bool | str | None:
    """How key pictures' detail is kept: as a switch, or auto, whole, fine."""
    text = environment.get("DAS_COMPOSE", "").strip().lower()
    words = {"auto": None, "whole": True, FINE: FINE}
    if text in words:
        return words[text]
    try:
        return _switch(environment, "DAS_COMPOSE", _DETAIL[otherwise])
    except SettingsError:
        raise SettingsError(
            f"DAS_COMPOSE is {_short(environment['DAS_COMPOSE'])}; use auto, 1 or whole, fine, 0.", field="DAS_COMPOSE"
        ) from None


def _priority(text: str) -> str:
    name = text.strip().lower()
    if name and name not in PRIORITIES:
        raise SettingsError(
            f"DAS_PRIORITY is {_short(text)}; use interactive, batch, or nothing, for interactive in a window only.",
            field="DAS_PRIORITY",
        )
    return name


def _switch(environment, name: str, otherwise: bool | None) -> bool | None:
    """A variable that is 1 or 0 (also true, false, yes, no, on, off)."""
    text = environment.get(name, "").strip().lower()
    if not text:
        return otherwise
    if text not in _SWITCHES:
        raise SettingsError(f"{name} is {environment[name]!r}; use 1 or 0.", field=name)
    return _SWITCHES[text]


_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _first_frame(environment, settings, frame: int | None) -> tuple[str, str]:
    """(file, data block) that is the first frame, at ``frame``; "" for both where it is the one in the cache, as "auto"
    says.  A file goes before a data block, what the environment names before both.

    A line of the list at that frame is the first frame's, too: `SettingsError` where both have a picture.  ``frame`` is
    None where the list is another camera's.
    """
    named = environment.get("DAS_FIRST_FRAME", "").strip()
    if named:
        return "" if named.lower() == "auto" else _absolute(named), ""
    path, image = settings.first_frame_path, settings.first_frame_image
    lines = settings.key_pictures if settings.key_mode == "LIST" else ()
    line = next((one for one in lines if one.frame == frame and (one.path or one.image is not None)), None)
    if line is not None and (path or image is not None):
        raise SettingsError(
            f"Two key pictures are at frame {frame}, the first frame's and one of the list: remove one of them.",
            field="key_pictures",
        )
    if line is not None:
        path, image = line.path, line.image
    return _absolute(path), "" if path or image is None else image.name_full


def _absolute(path: str) -> str:
    return os.path.abspath(bpy.path.abspath(path)) if path else ""


def _cache_folder(chosen: str) -> Path:
    if chosen and (bpy.data.filepath or not chosen.startswith("//")):  # beside a file that there is
        return Path(_absolute(chosen))
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / "das_cache"
    return machines.user_folder("das_cache")
