# SPDX-License-Identifier: GPL-3.0-or-later
"""The view layers of a scene."""

from __future__ import annotations


def render_layer(scene):
    """The view layer that a shot is read from and its first frame is rendered with: the first one that renders."""
    for layer in scene.view_layers:
        if layer.use:
            return layer
    return scene.view_layers[0]


def layer_apart(scene, view_layer: str) -> str:
    """The name ``view_layer`` where the scene has other layers too, whose pictures of one shot may differ; else ""."""
    return view_layer if len(scene.view_layers) > 1 else ""


def is_aside(shape, layer) -> bool:
    """Whether the object ``shape`` is only indirect in the view ``layer``, by its collections; False where it is not in
    it.  Both are original data or both evaluated.
    """
    try:
        return shape.indirect_only_get(view_layer=layer)
    except RuntimeError:  # Blender's word for an object that is in no collection of the layer
        return False


def is_holdout(shape, layer) -> bool:
    """Whether the object ``shape`` is a holdout, by itself or by its collections in the view ``layer``; see `is_aside`.
    """
    try:
        return shape.is_holdout or shape.holdout_get(view_layer=layer)
    except RuntimeError:
        return False
