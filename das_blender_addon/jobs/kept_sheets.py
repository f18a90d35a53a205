# SPDX-License-Identifier: GPL-3.0-or-later
"""The alpha of materials for the render passes of a render job: rendered by a child, and kept from frame to frame."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..scene.content.sheets import Rendered, Sheet
from .sources import CopySource, source_of

ROOM = 1.25
"""How much larger than now triangles may become in the picture before their alpha is rendered again."""

_kept: dict[tuple[str, str], KeptSheets] = {}


class KeptSheets:
    """Those of one view layer.  A copy of the file is written when there is something to render."""

    def __init__(self, scene, view_layer: str):
        self._scene, self._layer = scene, view_layer
        self._source: CopySource | None = None
        self._keys: list[bytes] = []
        self._sides: list[np.ndarray] = []
        self._found: Rendered | None = None

    def render(self, sheets: list[Sheet], should_stop: Callable[[], bool]) -> Rendered | None:
        """The alpha of ``sheets``, see `sheet_render.render_sheets`.  Raises `SceneError`, `StorageError`,
        `JobCancelled`.
        """
        keys = [_key(sheet) for sheet in sheets]
        if keys == self._keys:
            pairs = zip(sheets, self._sides, strict=True)
            if all((sheet.sides <= sides).all() for sheet, sides in pairs):
                return self._found
            wanted = [np.maximum(ROOM * one.sides, sides) for one, sides in zip(sheets, self._sides, strict=True)]
        else:
            wanted = [np.float32(ROOM) * sheet.sides for sheet in sheets]
        if self._source is None:
            self._source = source_of(self._scene, self._layer, in_child=True, should_stop=should_stop)
        asked = [replace(sheet, sides=sides) for sheet, sides in zip(sheets, wanted, strict=True)]
        self._found = self._source.sheets(asked, should_stop)
        self._keys, self._sides = keys, wanted
        return self._found

    def close(self) -> None:
        """Give the child back and remove the copy."""
        if self._source is not None:
            self._source.close()
            self._source = None


def kept_sheets(scene, view_layer: str) -> KeptSheets:
    """Those of the render job that is going on; `forget_sheets` at its end."""
    key = (scene.name_full, view_layer)
    if key not in _kept:
        _kept[key] = KeptSheets(scene, view_layer)
    return _kept[key]


def forget_sheets() -> None:
    """The render job is over."""
    while _kept:
        _kept.popitem()[1].close()


def _key(sheet: Sheet) -> bytes:
    digest = hashlib.sha256(repr((sheet.uv_map, sheet.materials, sorted(sheet.values))).encode())
    digest.update(np.ascontiguousarray(sheet.which))
    for name in sorted(sheet.values):
        digest.update(np.ascontiguousarray(sheet.values[name]))
    return digest.digest()
