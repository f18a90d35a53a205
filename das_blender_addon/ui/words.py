# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for people, ready to be translated: every label, tooltip and sentence of the extension's interface goes by one
translation context, under which `bpy.app.translations.register` takes a translation from anybody.

A sentence with values in it is one message with places for them, never put together from pieces.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import bpy

CONTEXT = "DiffusionAsShader"


def said(message: str, **values) -> str:
    """``message`` in the user's language, with ``values`` in its places (``{name}``)."""
    return bpy.app.translations.pgettext_iface(message, CONTEXT).format(**values)


def translated(words: str) -> str:
    """``words`` in the user's language, where they are a message; those that were translated stay as they are."""
    return bpy.app.translations.pgettext_iface(words, CONTEXT)


def register_classes(classes: Sequence[type]) -> None:
    """Register ``classes`` with Blender; their names and descriptions, and those of their properties, are messages of
    `CONTEXT`.
    """
    for cls in classes:
        if not issubclass(cls, bpy.types.PropertyGroup | bpy.types.AddonPreferences):
            cls.bl_translation_context = CONTEXT
        for owner in _that_declare(cls):
            owner.__annotations__ = inspect.get_annotations(owner, eval_str=True)
            for declared in owner.__annotations__.values():
                if hasattr(declared, "keywords"):  # a property, not yet made
                    declared.keywords.setdefault("translation_context", CONTEXT)
        bpy.utils.register_class(cls)


def _that_declare(cls: type) -> list[type]:
    """``cls``, and what it has in common with others of ours."""
    ours = __package__.rpartition(".")[0]
    return [owner for owner in cls.__mro__ if owner.__module__.startswith(ours) and inspect.get_annotations(owner)]


def unregister_classes(classes: Sequence[type]) -> None:
    """Undo `register_classes`."""
    for cls in reversed(classes):
        bpy.utils.unregister_class(cls)
