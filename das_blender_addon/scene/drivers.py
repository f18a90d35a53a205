# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that a job's Blender does not run: Python drivers of a file whose scripts are not trusted, and functions and
handlers that only the session knows that a copy is made of.

Such a driver keeps its last value, and the rig stands wrong without a word.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ..errors import SceneError, ScriptsDisabled

_ACTING = """frame_change_pre frame_change_post depsgraph_update_pre depsgraph_update_post render_init
    render_pre""".split()
"""Lists of handlers that may change what a job exports or renders."""

_is_allowed = False
"""Whether `allow_scripts` was called for the file that is open."""


def check_drivers(scene) -> None:
    """Raise `ScriptsDisabled` when Blender refused to run a Python driver of the open file, naming its owner."""
    name = untrusted_driver()
    if name:
        raise ScriptsDisabled(
            f"The Python driver of {name} does not run, because the scripts of the file are not trusted: allow them "
            "(--enable-autoexec, or Preferences › Save & Load › Auto Run Python Scripts), or remove the driver.",
            field="autoexec",
        )


def untrusted_driver() -> str:
    """The first Python driver that does not run because scripts are switched off, in words; "" when there is none."""
    if not bpy.app.autoexec_fail:
        return ""
    return next(_failed_drivers(), "")


def names_of_drivers() -> list[tuple[str, str]]:
    """(driver in words, name) of what the Python drivers of the open file use out of this session's
    `bpy.app.driver_namespace`.
    """
    known = bpy.app.driver_namespace
    return [
        (words, name)
        for words, curve in _python_drivers()
        for name in sorted(_names(curve.driver.expression))
        if name in known and name not in curve.driver.variables
    ]


def check_names(names: Iterable[tuple[str, str]]) -> None:
    """Raise `SceneError` for the first of `names_of_drivers` of another session that this Blender does not know."""
    for words, name in names:
        if name not in bpy.app.driver_namespace:
            raise SceneError(
                f"The Python driver of {words} uses {name!r}, which only this session knows: register it in a text of "
                "the file (Text › Register) or in an add-on.",
                field="autoexec",
            )


def handlers_of_session() -> list[str]:
    """Handlers that act on frames and are of no add-on, script folder or registered text: no other Blender has them."""
    handlers = [handler for name in _ACTING for handler in getattr(bpy.app.handlers, name)]
    return sorted({_words_of(handler) for handler in handlers if not _is_anywhere(handler)})


def _names(expression: str) -> set[str]:
    """The names that a Python expression reads; none of one that is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(expression.strip(), mode="eval")))
    except (SyntaxError, ValueError):
        return set()
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _is_anywhere(handler: Callable) -> bool:
    """Whether every Blender with these preferences that opens the file has it, too."""
    module = getattr(handler, "__module__", None) or ""
    if any(f"{module}.".startswith(f"{one.module}.") for one in bpy.context.preferences.addons):
        return True
    file = _file_of(handler)
    folders = [Path(folder) for folder in bpy.utils.script_paths()]
    if file and any(Path(file).is_relative_to(folder) for folder in folders):
        return True
    texts = [text.name for text in bpy.data.texts if text.use_module]
    return not os.path.isfile(file) and os.path.basename(file) in texts


def _file_of(handler: Callable) -> str:
    """Where the code of a function, method, partial or callable object comes from; "" where that is not told."""
    for code in (handler, getattr(handler, "__func__", None), getattr(handler, "func", None), type(handler).__call__):
        if hasattr(code, "__code__"):
            return code.__code__.co_filename
    return ""


def _words_of(handler: Callable) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__


def allow_scripts() -> None:
    """The open file was opened with the wish that its scripts run."""
    global _is_allowed
    _is_allowed = True


@persistent
def forget_wish(*_) -> None:
    """Another file is opened."""
    global _is_allowed
    _is_allowed = False


def runs_scripts() -> bool:
    """Whether this Blender runs the open file's scripts, by what it shows, as it tells nobody: it was told to, or one
    has run.  In doubt not: what a stranger's file could not run here must not run in a child.
    """
    bpy.context.evaluated_depsgraph_get()  # what is visible and may not run has been refused from now on
    if bpy.app.autoexec_fail:
        return False
    preferences = bpy.context.preferences
    always = preferences.filepaths.use_scripts_auto_execute and not preferences.autoexec_paths
    return _is_allowed or always or _is_allowed_by_option() or _has_run_one()


def _is_allowed_by_option() -> bool:
    """Whether the last word of Blender's own command line on it is ``--enable-autoexec``."""
    words = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    said = [word for word in words if word in ("-y", "-Y", "--enable-autoexec", "--disable-autoexec")]
    return bool(bpy.app.binary_path and said) and said[-1] in ("-y", "--enable-autoexec")


def _has_run_one() -> bool:
    """Whether there is a script that has run: else `bpy.app.autoexec_fail` would be set."""
    if any(text.use_module and text.library is None for text in bpy.data.texts):
        return True
    layer = bpy.context.view_layer
    for shape in layer.objects if layer is not None else ():
        if shape is not None and shape.visible_get(view_layer=layer):  # None: just removed (Blender 5.2)
            for owner in (shape, shape.data, getattr(shape.data, "shape_keys", None)):
                if any(_is_python(curve) for curve in _drivers(owner)):
                    return True
    return False


def _drivers(block) -> Iterator[bpy.types.FCurve]:
    """The drivers of a data block that are not muted; of None none."""
    animation = getattr(block, "animation_data", None)
    yield from (curve for curve in (animation.drivers if animation is not None else ()) if not curve.mute)


def _is_python(curve) -> bool:
    return curve.driver.type == "SCRIPTED" and not curve.driver.is_simple_expression


def _failed_drivers() -> Iterator[str]:
    """Python drivers that failed, in words.

    One that only a render has run is not marked; what Blender refused last is told in words (cut off when long).
    """
    last = bpy.app.autoexec_fail_message.removeprefix("Driver '").removesuffix("'")
    for words, curve in _python_drivers():
        if not curve.driver.is_valid or (last and curve.driver.expression.startswith(last)):
            yield words


def _python_drivers() -> Iterator[tuple[str, bpy.types.FCurve]]:
    """(in words, the driver) of all Python drivers: those of objects first, then those of everything else."""
    collections = [value for value in map(_collection, dir(bpy.data)) if value is not None]
    for owner in (*bpy.data.objects, *(owner for owners in collections for owner in owners)):
        for block in (owner, getattr(owner, "node_tree", None)):
            for curve in filter(_is_python, _drivers(block)):
                yield f"{_name(owner)!r} ({curve.data_path}, {curve.driver.expression!r})", curve


def _collection(name: str):
    value = getattr(bpy.data, name)
    return value if isinstance(value, bpy.types.bpy_prop_collection) else None


def _name(owner) -> str:
    """Shape keys go by the name of what they belong to: their own is the same for all."""
    return owner.user.name if isinstance(owner, bpy.types.Key) else owner.name
