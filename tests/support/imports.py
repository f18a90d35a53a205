# SPDX-License-Identifier: GPL-3.0-or-later
"""Who imports whom in a package, read off its source: the machinery of `tests/unit/test_house_rules.py`.

An import counts wherever it stands: at the top of a file, inside a function (late), under ``TYPE_CHECKING`` (typing).
A *room* is a folder or a file directly in a package; "" is the package's own ``__init__``.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LOAD, LATE, TYPING = "load", "late", "typing"
"""When an import happens: as the file is loaded, when a function is called, never but for a type checker."""


@dataclass(frozen=True)
class Import:
    """``name``: the module, absolute and dotted; ``from x import y`` imports ``x.y`` where that is a file of ours."""

    name: str
    line: int
    when: str


def python_files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def module_name(path: Path) -> str:
    """Dotted name of a file's module; a package's ``__init__`` has the package's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: list[Import] = []

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            names = (f"{module}.{alias.name}" for alias in node.names)
            found.extend(Import(name if _is_ours(name) else module, node.lineno, when) for name in names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, TYPING)
            for child in node.orelse:
                visit(child, when)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, LATE if inside and when == LOAD else when)

    visit(ast.parse(path.read_text(), str(path)), LOAD)
    return tuple(found)


def _is_ours(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def graph_of(package: Path, *whens: str) -> dict[str, set[str]]:
    """Module → the modules that it imports; ``whens``: which imports count, all when none is named."""
    return {
        module_name(path): {one.name for one in imports_of(path) if not whens or one.when in whens}
        for path in python_files(package)
    }


def ring_in(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other in a circle, in its order, the first one last again; empty when there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names each one before the one that imports it
    return []


def room_of(name: str, package: Path) -> str | None:
    """The room of a dotted name in ``package``; None for a name outside of it."""
    words = name.split(".")
    if words[0] != package.name:
        return None
    if len(words) > 1 and ((package / words[1]).is_dir() or (package / f"{words[1]}.py").is_file()):
        return words[1]
    return ""


def rooms_of(package: Path) -> set[str]:
    """Every room of ``package`` that holds Python."""
    return {room_of(module_name(path), package) for path in python_files(package)}


def table_faults(package: Path, layers: Mapping[str, int]) -> list[str]:
    """What is wrong with a table of layers itself: a room without a row, a row without a room."""
    rooms = rooms_of(package)
    return [f"the room {room!r} has no row" for room in sorted(rooms - set(layers))] + [
        f"the row {room!r} has no room" for room in sorted(set(layers) - rooms)
    ]


def upward_imports(package: Path, layers: Mapping[str, int]) -> list[str]:
    """Every import that does not go to the same room or to one on a lower layer, whenever it happens."""
    faults = []
    for path in python_files(package):
        here = room_of(module_name(path), package)
        for one in imports_of(path):
            there = room_of(one.name, package)
            if there is not None and there != here and layers[there] >= layers[here]:
                faults.append(f"{path.relative_to(ROOT)}, line {one.line}: {one.name} ({one.when})")
    return faults


def loaded_with(start: Iterable[str], graph: Mapping[str, set[str]]) -> dict[str, str]:
    """Module → who brings it, for all that is loaded when ``start`` is: packages on the way, too."""
    brought = {module: "" for module in start}
    waiting = list(brought)
    while waiting:
        module = waiting.pop()
        ways = {module.rsplit(".", count)[0] for count in range(1, module.count(".") + 1)}
        for name in sorted(graph.get(module, set()) | ways):
            if name not in brought:
                brought[name] = module
                waiting.append(name)
    return brought
