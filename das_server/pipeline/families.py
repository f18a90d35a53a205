# SPDX-License-Identifier: GPL-3.0-or-later
"""The families that there are, by name; each one is loaded when a model of it is asked for."""

from __future__ import annotations

import importlib

from das_blender_addon.errors import ModelError

from .base import Family

FAMILY_MODULES = {
    "cogvideox": "das_server.pipeline.cogvideox.family",
    "wan-vace": "das_server.pipeline.wan_vace.family",
}
"""Name of a family (`models.families`) → the module whose functions are its `base.Family`."""


def pipeline_family(name: str) -> Family:
    """The family's side of the pipeline.  Raises `ModelError` for one that there is not."""
    if name not in FAMILY_MODULES:
        raise ModelError(f"There is no model family {name!r}; known are {', '.join(FAMILY_MODULES)}.", field="model")
    return importlib.import_module(FAMILY_MODULES[name])
