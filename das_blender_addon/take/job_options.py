# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job asks of one model besides the settings that all have: adapters, and how much may be lost for speed.

What is not asked for is not in the options, so that a take which was made before there was a choice stays found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SettingsError
from ..protocol.messages import ModelCapability

EXACT = "exact"


def job_options(model: ModelCapability, loras: Sequence[tuple[str, float]], speed: str) -> dict[str, Any]:
    """``JobSpec.options`` for ``model``.  ``speed`` "": the server's own.

    Raises `SettingsError` for an adapter or a speed that the server does not have for this model.
    """
    options: dict[str, Any] = {}
    if "first_frame_xy" in model.inputs:
        options["compose"] = False  # an older server composes by itself
    if loras:
        options["loras"] = [_lora(model, name, weight) for name, weight in loras]
    speed = speed or (model.speeds[0] if model.speeds else EXACT)
    if speed != EXACT and speed not in model.speeds:
        offered = ", ".join(model.speeds) or EXACT
        raise SettingsError(f"The speed is {speed!r}; {model.name} on this server has {offered}.", field="speed")
    if speed != EXACT:
        options["speed"] = speed
    return options


def _lora(model: ModelCapability, name: str, weight: float) -> list[Any]:
    known = {one[0]: one[1] for one in model.loras}
    if name not in known:
        there = f"there is {', '.join(known)}" if known else "there is none (das-server models add-lora adds one)"
        raise SettingsError(f"The server has no LoRA {name!r} for {model.name}; {there}.", field="loras")
    return [name, float(weight), known[name]]
