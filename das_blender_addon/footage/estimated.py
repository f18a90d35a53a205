# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server measures of a picture for its plate: its depth, and things by a word, clicks or an outline.

auto                                in the place of a depth file: the server's depth, and the lens where it tells it
salient                             a mask: what stands out
point:x,y;x,y                       the thing under the pixels
cut:x,y,width,height                the thing inside the box, without what is round it there
lasso:x,y;x,y;x,y                   the thing inside the outline
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..client.connection import ShouldStop
from ..client.estimates import DEPTH_MEANINGS, chosen, estimate
from ..errors import ModelError, SettingsError
from ..protocol.messages import Capabilities
from .depth_files import read_depth
from .masks import ASKED, SALIENT

AUTO = "auto"
Measure = Callable[..., dict[str, np.ndarray]]
"""`client.estimates.estimate` of one server: (kind, picture, **parameters)."""

WITHOUT = {
    "depth": "Without it, give --depth FILE, or --depth plane.",
    "mask": "Without it, give a mask file, or box:x,y,width,height.",
    "salient": "Without it, give a mask file, or box:x,y,width,height.",
}
"""What to do where a server has no estimator of a kind."""


def measure_on(server: str, should_stop: ShouldStop | None = None, timeout_s: float = 30.0) -> Measure:
    """What asks the server at the address, which may be silent for ``timeout_s``."""
    return partial(estimate, server, should_stop=should_stop, timeout_s=timeout_s)


def is_asked(words: str) -> bool:
    """Whether a server finds the mask."""
    return words == SALIENT or words.startswith(ASKED)


def found_masks(wanted: Mapping[str, str], picture: np.ndarray, measure: Measure | None) -> dict[str, str | np.ndarray]:
    """``wanted`` (name → words), where those that a server finds in ``picture`` u8 [H,W,3] have become bool [H,W].

    Raises `SettingsError` for words that cannot be read or without ``measure``, and as `estimate` does.
    """
    return {name: _mask(words, picture, measure) if is_asked(words) else words for name, words in wanted.items()}


def found_depth(
    picture: np.ndarray, lens_mm: float, measure: Measure | None, *, scale: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float, str]:
    """(depth f32 [H,W] in Blender units, valid bool [H,W], lens in mm, where it comes from in words) of ``picture`` u8
    [H,W,3].  ``lens_mm`` 0: as the server tells it, 0 where it does not.  ``scale``: as of a depth file.

    Raises as `found_masks`.
    """
    made = _asked(measure, "depth", picture, **({"lens_mm": float(lens_mm)} if lens_mm else {}))
    kind = DEPTH_MEANINGS[int(made["meaning"])]
    values = np.where(made["valid"][0], made["depth"][0], 0.0).astype(np.float64)
    name = f"the server's {kind} depth"
    depth, valid = read_depth(Path(name), picture.shape[:2], kind=kind, scale=scale, values=values)
    return depth, valid, lens_mm or float(made["lens_mm"][0]), name


def lacks(capabilities: Capabilities | None, kind: str) -> str:
    """Why a server cannot measure a kind and what to do, in a sentence; "" where it can.  Asks no network."""
    if capabilities is None:
        return "No server has been asked yet: press Test Connection."
    try:
        chosen(capabilities.estimators, kind)
    except ModelError as error:
        return error.message
    return ""


def _mask(words: str, picture: np.ndarray, measure: Measure | None) -> np.ndarray:
    if words == SALIENT:
        return _asked(measure, "salient", picture)["mask"]
    how, _, rest = words.partition(":")
    rows = _numbers(words, rest)
    fitting = {"point": 2, "cut": 4, "lasso": 2}[how]
    if (
        any(len(row) != fitting for row in rows)
        or (how == "cut" and len(rows) > 1)
        or (how == "lasso" and len(rows) < 3)
    ):
        raise _unreadable(words)
    if how == "cut":
        return _asked(measure, "mask", picture, box=rows[0])["mask"]
    return _asked(measure, "mask", picture, **{"points" if how == "point" else "lasso": rows})["mask"]


def _asked(measure: Measure | None, kind: str, picture: np.ndarray, **parameters: Any) -> dict[str, np.ndarray]:
    if measure is None:
        raise SettingsError(f"A server measures the {kind}, and none was named (server=…). {WITHOUT[kind]}", field=kind)
    try:
        return measure(kind, picture, **parameters)
    except ModelError as error:
        raise ModelError(f"{error.message} {WITHOUT[kind]}", field=error.field) from error


def _numbers(words: str, rest: str) -> list[list[float]]:
    try:
        return [[float(number) for number in row.split(",")] for row in rest.split(";")]
    except ValueError as error:
        raise _unreadable(words) from error


def _unreadable(words: str) -> SettingsError:
    return SettingsError(
        f"The mask {words[:80]} cannot be read; write point:x,y (more of them after ;), cut:x,y,width,height or "
        "lasso:x,y;x,y;x,y, in pixels from the top left.",
        field="mask",
    )
