# SPDX-License-Identifier: GPL-3.0-or-later
"""Relative paths that Blender leaves as they are in a file that it saves elsewhere: where geometry nodes have their
bakes (up to Blender 4.5), which files their import nodes read (in 4.5), and what modifiers give them as a file.

Only of the file's own data: what a library has is relative to the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import bpy

from .. import compat

IMPORT_NODES = "GeometryNodeImport"
"""How their identifiers begin."""


def left_relative() -> list[list]:
    """[[where it is, the absolute path], …] of every such path of the open file; for `make_absolute`."""
    return [[list(where), bpy.path.abspath(path)] for where, path, _ in _paths() if path.startswith("//")]


def make_absolute(given: list[list]) -> None:
    """Give the paths of `left_relative` of a file to its copy, which is open elsewhere."""
    wanted = {tuple(where): path for where, path in given}
    for where, path, give in list(_paths()):
        if where in wanted and path != wanted[where]:
            give(wanted[where])


def _paths() -> Iterator[tuple[tuple, str, Callable[[str], None]]]:
    """(where it is, the path, what gives it another one)."""
    for shape in bpy.data.objects:
        if shape.library is not None:
            continue
        for modifier in shape.modifiers:
            if modifier.type == "NODES" and modifier.node_group is not None:
                yield from _of_modifier((shape.name, modifier.name), modifier)
    for tree in bpy.data.node_groups:
        if tree.library is not None or tree.bl_idname != "GeometryNodeTree":
            continue
        for node in tree.nodes:
            if node.bl_idname.startswith(IMPORT_NODES):
                for socket in node.inputs:
                    if isinstance(getattr(socket, "default_value", None), str):
                        yield (tree.name, node.name, socket.identifier), *_value(socket, "default_value")


def _of_modifier(where: tuple, modifier) -> Iterator[tuple[tuple, str, Callable[[str], None]]]:
    for bake in modifier.bakes:
        yield (*where, "bakes", bake.bake_id), *_bake(modifier, bake)
    for item in modifier.node_group.interface.items_tree:
        if getattr(item, "socket_type", "") == "NodeSocketString" and item.in_out == "INPUT":
            given = compat.modifier_input(modifier, item.identifier)
            if getattr(item, "subtype", "") == "FILE_PATH" and isinstance(given, str):
                yield (*where, item.identifier), given, _giver(modifier, item.identifier)


def _bake(modifier, bake) -> tuple[str, Callable[[str], None]]:
    def give(path: str) -> None:
        bake.use_custom_path, bake.directory = True, path  # a new folder of the modifier's is not looked into

    shared = f"{modifier.bake_directory}/{bake.bake_id}" if modifier.bake_directory else ""
    return bake.directory if bake.use_custom_path else shared, give


def _value(owner, name: str) -> tuple[str, Callable[[str], None]]:
    return getattr(owner, name), lambda path: setattr(owner, name, path)


def _giver(modifier, identifier: str) -> Callable[[str], None]:
    def give(path: str) -> None:
        compat.give_modifier_input(modifier, identifier, path)
        modifier.id_data.update_tag()

    return give
