# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate's picture painted anew on a server: the first picture of a shot in another style, its shapes kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..client.connection import ShouldStop
from ..client.estimates import chosen, estimators_of, repaint
from ..errors import ModelError, SettingsError
from .plane import is_guessed
from .plate import Plate

REPAINT = "repaint"
WITHOUT = "Without it, paint the first picture in any program and give it with --first-picture FILE."


@dataclass(frozen=True)
class Repaint:
    """``prompt``: the words it is painted by; ``negative_prompt``: what is not to be seen; ``seed``: another one gives
    another picture.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0


def check_repaint(wanted: Repaint, server: str, timeout_s: float = 30.0) -> None:
    """Look before any long work whether the server at the address can paint.

    Raises `SettingsError` (no words, no server), `ModelError` that says what to install there, any `TransportError`.
    """
    if not wanted.prompt.strip():
        raise SettingsError(
            "The words to repaint the first picture by are empty; say what it is to look like.", field=REPAINT
        )
    if not server:
        raise SettingsError(f"A server repaints, and none was named (server=…). {WITHOUT}", field=REPAINT)
    try:
        chosen(estimators_of(server, timeout_s=timeout_s), REPAINT)
    except ModelError as error:
        raise ModelError(f"{error.message} {WITHOUT}", field=error.field) from error


def repainted(
    plate: Plate, wanted: Repaint, server: str, should_stop: ShouldStop | None = None, timeout_s: float = 30.0
) -> tuple[np.ndarray, str]:
    """(the picture of ``plate`` painted anew u8 [H,W,3], what kept its shapes in a sentence): its depth where that is
    known, 0 in the sky; its edges where it is no more than a ground and a wall.

    Raises as `client.estimates.estimate`.
    """
    known = not is_guessed(plate) and bool(plate.valid.any())
    depth = np.where(plate.valid, plate.depth, 0.0).astype(np.float32) if known else None
    made = repaint(
        server,
        plate.picture,
        wanted.prompt,
        depth=depth,
        negative_prompt=wanted.negative_prompt,
        seed=wanted.seed,
        should_stop=should_stop,
        timeout_s=timeout_s,
    )
    guide = f"its depth ({plate.source}) keeps its shapes" if known else "its edges keep its shapes"
    return made, f"The first picture was repainted by the server: {guide}."
