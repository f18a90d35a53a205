# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the interface says can be translated: one context, and sentences that are whole messages."""

import ast

import bpy
import pytest

from das_blender_addon.ui import preferences, properties, words
from tests.support.server import ROOT

UI_FILES = sorted((ROOT / "das_blender_addon" / "ui").glob("*.py"))
SHOWN_BY = {"label", "say", "alert", "report", "poll_message_set", "operator", "prop", "popover", "menu"}
"""Calls whose words people read."""


WITHOUT_CONTEXT = {"label", "report", "poll_message_set", "invoke_props_dialog", "invoke_confirm"}
WORDS = {"text", "title", "message", "confirm_text"}


def our_classes() -> list[type]:
    listed = [getattr(bpy.types, name) for name in dir(bpy.types) if name.startswith("DAS_")]
    return [*listed, *properties.CLASSES, preferences.DAS_AP_preferences]


def test_every_class_and_property_has_the_context_and_words(scene):
    seen = set()
    for cls in our_classes():
        kind = cls.bl_rna.base.identifier
        seen.add(kind)
        if kind in ("Operator", "Panel", "Menu"):
            assert cls.bl_translation_context == words.CONTEXT and cls.bl_label, cls
        rna = cls.bl_rna
        if kind == "Operator":
            module, name = cls.bl_idname.split(".")
            rna = getattr(getattr(bpy.ops, module), name).get_rna_type()
            assert rna.description, cls
            assert not rna.description.endswith("."), cls
        if kind in ("Operator", "PropertyGroup", "AddonPreferences"):
            inherited = set(cls.bl_rna.base.properties.keys())
            for prop in rna.properties:
                if prop.identifier not in inherited and prop.identifier in cls.__annotations__:
                    assert prop.translation_context == words.CONTEXT, (cls, prop.identifier)
    assert {"Operator", "Panel", "Menu", "PropertyGroup", "AddonPreferences"} <= seen


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.name)
def test_no_sentence_is_put_together_where_it_is_shown(path):
    """A translator gets whole sentences: `words.said` with places for values, no f-strings."""
    put_together = [
        call.lineno
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", "")) in SHOWN_BY
        and any(isinstance(value, ast.JoinedStr) for value in (*call.args, *(key.value for key in call.keywords)))
    ]
    assert put_together == []


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.name)
def test_no_words_are_shown_without_the_context(path):
    """Blender looks up what is written down in a label, a report or a dialog under no context, or not at all."""
    bare = [
        call.lineno
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", "") in WITHOUT_CONTEXT
        and ast.unparse(call.func) != "bpy.ops.das.report"
        for value in (*call.args, *(key.value for key in call.keywords if key.arg in WORDS))
        if isinstance(value, ast.Constant) and value.value
    ]
    assert bare == []


def test_values_find_their_places(addon):
    assert words.said("{count} frames ({first} to {last})", count=9, first=1, last=9) == "9 frames (1 to 9)"
    assert words.translated("a path with {braces}") == "a path with {braces}"
