# SPDX-License-Identifier: GPL-3.0-or-later
"""Which value of a setting counts: the environment goes before the scene, the scene before a local server that was
started from here, that one before the add-on preferences, those before the defaults.

A farm can so override every setting of a file without opening it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import bpy

from ..errors import SettingsError
from . import machine as machines
from .resolved import ResolvedSettings
from .server_consent import chosen_server

FIRST_FRAME_ENGINES = ("CYCLES", "EEVEE", "WORKBENCH")
TRACKING_RANGES = ("signed", "unit")
MAX_SEED = 2**31 - 1
MAX_SAMPLES = 65536
ENVIRONMENT = (
    "DAS_SERVER",
    "DAS_TIMEOUT_S",
    "DAS_MODEL",
    "DAS_PROMPT",
    "DAS_NEGATIVE_PROMPT",
    "DAS_SEED",
    "DAS_STEPS",
    "DAS_GUIDANCE",
    "DAS_SIZE",
    "DAS_TRACKING_RANGE",
    "DAS_COMPOSE",
    "DAS_FRAMES",
    "DAS_FIRST_FRAME",
    "DAS_FIRST_FRAME_ENGINE",
    "DAS_FIRST_FRAME_SAMPLES",
    "DAS_CACHE",
    "DAS_NEW_FIRST_FRAME",
    "DAS_ANEW",
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
    return ResolvedSettings(
        server=chosen_server(scene, environment),
        timeout_s=_number(environment, "DAS_TIMEOUT_S", float, machine.timeout_s, low=1.0, high=86400.0),
        model=environment.get("DAS_MODEL", "") or settings.model,
        prompt=environment.get("DAS_PROMPT", settings.prompt),
        negative_prompt=environment.get("DAS_NEGATIVE_PROMPT", settings.negative_prompt),
        seed=_number(environment, "DAS_SEED", int, settings.seed, low=0, high=MAX_SEED),
        steps=_number(environment, "DAS_STEPS", int, settings.steps, low=0, high=1000),
        guidance=_number(environment, "DAS_GUIDANCE", float, settings.guidance, low=0.0, high=50.0),
        size=parse_size(environment.get("DAS_SIZE", "") or settings.size),
        tracking_range=_tracking_range(environment.get("DAS_TRACKING_RANGE", "") or settings.tracking_range),
        compose=_switch(environment, "DAS_COMPOSE", settings.compose),
        frames=_window(scene, environment.get("DAS_FRAMES", "")),
        first_frame_path=_absolute(environment.get("DAS_FIRST_FRAME", "") or settings.first_frame_path),
        first_frame_image=_image_name(settings, environment),
        first_frame_engine=first_frame_engine,
        first_frame_samples=_number(
            environment, "DAS_FIRST_FRAME_SAMPLES", int, settings.first_frame_samples, low=1, high=MAX_SAMPLES
        ),
        cache_folder=_cache_folder(environment.get("DAS_CACHE", "") or settings.cache_folder or machine.cache_folder),
        new_first_frame=_switch(environment, "DAS_NEW_FIRST_FRAME", False),
        anew=_switch(environment, "DAS_ANEW", False),
    )


def parse_frames(text: str) -> tuple[int, ...]:
    """``"7"``, ``"1-49"`` or ``"1-49x2"`` (every second one) as frame numbers.  Raises `SettingsError`."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+)(?:\s*x\s*(\d+))?)?\s*", text)
    if match is None:
        raise SettingsError(f"The frames {text!r} cannot be read; write 7, 1-49 or 1-49x2.", field="frames")
    start = int(match[1])
    end, step = int(match[2] or start), int(match[3] or 1)
    if end < start or step < 1:
        raise SettingsError(
            f"The frames {text!r} hold no frame; the end comes after the start, the step is 1 or more.", field="frames"
        )
    return tuple(range(start, end + 1, step))


def parse_size(text: str) -> tuple[int, int] | None:
    """``"720x480"`` as (width, height) in pixels; ``""`` and ``"AUTO"`` as None.  Raises `SettingsError`."""
    if text.strip().upper() in ("", "AUTO"):
        return None
    match = re.fullmatch(r"\s*(\d+)\s*[x×]\s*(\d+)\s*", text, re.IGNORECASE)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise SettingsError(
            f"The size {text!r} cannot be read; write AUTO or WIDTHxHEIGHT, for example 720x480.", field="size"
        )
    return int(match[1]), int(match[2])


def _window(scene, override: str) -> tuple[int, ...]:
    if override:
        return parse_frames(override)
    settings = scene.das
    start, end = scene.frame_start, scene.frame_end
    if settings.use_shot_range:
        start, end = settings.shot_start, settings.shot_end
    if end < start:
        raise SettingsError(
            f"The shot ends at frame {end}, before it starts at {start}; set its end after its start.", field="shot_end"
        )
    return tuple(range(start, end + 1, scene.frame_step))


def _number(environment, name: str, kind, otherwise, *, low, high):
    text = environment.get(name, "")
    if not text:
        return otherwise
    try:
        value = kind(text)
    except ValueError as error:
        raise SettingsError(
            f"{name} is {text!r}, which is no {'whole number' if kind is int else 'number'}.", field=name
        ) from error
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text}; it goes from {low} to {high}.", field=name)
    return value


def _tracking_range(text: str) -> str:
    """The tracking range by name, "" for the model's own."""
    name = text.strip().lower()
    if name != "auto" and name not in TRACKING_RANGES:
        raise SettingsError(
            f"DAS_TRACKING_RANGE is {text!r}; use AUTO, {' or '.join(TRACKING_RANGES)}.", field="tracking_range"
        )
    return "" if name == "auto" else name


def _switch(environment, name: str, otherwise: bool) -> bool:
    """A variable that is 1 or 0 (also true, false, yes, no, on, off)."""
    text = environment.get(name, "").strip().lower()
    if not text:
        return otherwise
    if text not in _SWITCHES:
        raise SettingsError(f"{name} is {environment[name]!r}; use 1 or 0.", field=name)
    return _SWITCHES[text]


_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _image_name(settings, environment) -> str:
    """The data block that is the first frame; a file that is named goes before it."""
    named = environment.get("DAS_FIRST_FRAME", "") or settings.first_frame_path
    return "" if named or settings.first_frame_image is None else settings.first_frame_image.name


def _absolute(path: str) -> str:
    return os.path.abspath(bpy.path.abspath(path)) if path else ""


def _cache_folder(chosen: str) -> Path:
    if chosen:
        return Path(_absolute(chosen))
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / "das_cache"
    return machines.user_folder("das_cache")


