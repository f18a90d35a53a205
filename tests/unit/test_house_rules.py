# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house (docs/architecture.md), read off the source: who imports whom, and what nobody does."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDON = ROOT / "das_blender_addon"
SERVER = ROOT / "das_server"
ROOMS_WITHOUT_BPY = ("protocol", "tracking", "client")
BLENDER_MODULES = {"bpy", "bmesh", "mathutils", "gpu", "addon_utils", "bpy_extras"}

SERVER_LAYERS = {
    # room or module: its height; imports go to the same room or to lower heights only
    "version": 0, "blobs": 1, "config": 1, "media": 1, "models": 1, "state_lock": 1, "job": 1,
    "pipeline": 2, "estimators": 2,
    "tasks": 3, "jobs": 3, "auth": 3, "training": 3,
    "workers": 4,
    "requests": 5,
    "endpoint": 6,
    "cli": 7,
    "__main__": 8,
}  # fmt: skip
PRINTING = {ADDON / "commands.py", ADDON / "__main__.py", SERVER / "cli.py", SERVER / "__main__.py"}


def python_files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def imports_of(path: Path) -> list[tuple[str, int, bool]]:
    """(absolute dotted name, line, at module level) of every import, relative ones resolved."""
    tree = ast.parse(path.read_text(), str(path))
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    top = {id(node) for node in tree.body}
    for node in tree.body:
        if isinstance(node, ast.If | ast.Try):
            top.update(id(child) for child in ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            found.append((module, node.lineno, id(node) in top))
            found += [(f"{module}.{alias.name}", node.lineno, id(node) in top) for alias in node.names]
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", python_files(*(ADDON / room for room in ROOMS_WITHOUT_BPY)), ids=relative)
def test_room_imports_no_blender(path):
    names = {name.split(".")[0] for name, _, _ in imports_of(path)}
    assert not names & BLENDER_MODULES


@pytest.mark.parametrize("path", python_files(ADDON), ids=relative)
def test_extension_imports_itself_only_relatively(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert not (node.module or "").startswith(("das_blender_addon", "das_server")), f"line {node.lineno}"
        if isinstance(node, ast.Import):
            assert not any(a.name.startswith(("das_blender_addon", "das_server")) for a in node.names), (
                f"line {node.lineno}"
            )


@pytest.mark.parametrize("path", python_files(ADDON), ids=relative)
def test_extension_needs_nothing_but_its_wheels(path):
    allowed = BLENDER_MODULES | {"numpy", "zmq", "msgpack", "zstandard", "das_blender_addon", "_bpy", "bl_ui"}
    import sys

    names = {name.split(".")[0] for name, _, _ in imports_of(path)}
    assert names - allowed <= set(sys.stdlib_module_names) | {""}


@pytest.mark.parametrize("path", python_files(ADDON / "protocol", ADDON / "tracking"), ids=relative)
def test_wire_and_geometry_know_no_sockets(path):
    assert not {name for name, _, _ in imports_of(path) if name.split(".")[0] == "zmq"}


@pytest.mark.parametrize("path", python_files(SERVER), ids=relative)
def test_server_imports_only_the_shared_contract_of_the_extension(path):
    shared = ("das_blender_addon.errors", "das_blender_addon.protocol", "das_blender_addon.tracking")
    for name, line, _ in imports_of(path):
        if name.startswith("das_blender_addon."):
            assert name.startswith(shared), f"{name}, line {line}"
        assert name.split(".")[0] not in BLENDER_MODULES


@pytest.mark.parametrize(
    "path",
    [p for p in python_files(SERVER) if p.stem in ("endpoint", "requests", "job", "jobs", "auth", "config")],
    ids=relative,
)
def test_front_door_never_imports_torch(path):
    names = {name.split(".")[0] for name, _, _ in imports_of(path)}
    assert not names & {"torch", "diffusers", "transformers", "accelerate"}


@pytest.mark.parametrize("path", python_files(SERVER), ids=relative)
def test_server_imports_go_down_only(path):
    parts = path.relative_to(SERVER).with_suffix("").parts
    here = parts[0]
    if here == "__init__":
        return
    assert here in SERVER_LAYERS, f"{here} has no layer in this table"
    for name, line, _ in imports_of(path):
        words = name.split(".")
        if words[0] == "das_server" and len(words) > 1 and words[1] in SERVER_LAYERS:
            there = words[1]
            assert there == here or SERVER_LAYERS[there] < SERVER_LAYERS[here], f"{name}, line {line}"


@pytest.mark.parametrize("path", python_files(ADDON, SERVER), ids=relative)
def test_nobody_pickles(path):
    names = {name.split(".")[0] for name, _, _ in imports_of(path)}
    assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    assert not re.search(r"send_pyobj|recv_pyobj|allow_pickle\s*=\s*True|weights_only\s*=\s*False", path.read_text())


@pytest.mark.parametrize("path", [p for p in python_files(ADDON, SERVER) if p not in PRINTING], ids=relative)
def test_nobody_prints_but_the_command_lines(path):
    calls = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    assert not [call.lineno for call in calls if call.func.id == "print"]


@pytest.mark.parametrize("path", python_files(ADDON, SERVER), ids=relative)
def test_no_exception_is_swallowed_whole(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            assert not (broad and len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"line {node.lineno}"


@pytest.mark.parametrize("path", python_files(ADDON, SERVER, ROOT / "tests", ROOT / "scripts"), ids=relative)
def test_file_names_its_licence(path):
    assert path.read_text().startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")


def test_extension_does_no_work_at_import():
    tree = ast.parse((ADDON / "__init__.py").read_text())
    allowed = (ast.FunctionDef, ast.Expr)
    assert all(isinstance(node, allowed) for node in tree.body)
    assert all(isinstance(node.value, ast.Constant) for node in tree.body if isinstance(node, ast.Expr))
