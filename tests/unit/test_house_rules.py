# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house (docs/architecture.md), read off the source: who imports whom, and what nobody does."""

import ast
import re
import sys

import pytest

from das_server.pipeline.families import FAMILY_MODULES
from das_server.tasks.base import TASK_MODULES
from tests.support.imports import (
    LATE,
    LOAD,
    ROOT,
    TYPING,
    graph_of,
    imports_of,
    loaded_with,
    python_files,
    ring_in,
    table_faults,
    upward_imports,
)

ADDON = ROOT / "das_blender_addon"
SERVER = ROOT / "das_server"
ROOMS_WITHOUT_BPY = ("protocol", "tracking", "client", "footage", "take")
BLENDER_MODULES = {"bpy", "bmesh", "mathutils", "gpu", "gpu_extras", "blf", "imbuf", "addon_utils", "bpy_extras"}
TORCH_MODULES = {"torch", "diffusers", "transformers", "accelerate"}
ROOMS_WITHOUT_TORCH = ("config", "door", "listening", "store", "web")

SERVER_LAYERS = {
    # room: its height; imports go to the same room or to lower ones only, whenever they happen
    "": 0,  # the version
    "config": 1, "media": 1, "limits": 1,
    "store": 2, "models": 2, "listening": 2,
    "pipeline": 3,
    "estimators": 4,
    "tasks": 5, "training": 5,
    "workers": 6,
    "door": 7,
    "web": 8, "cli_status": 8,
    "cli_keys": 9, "cli_jobs": 9, "cli_web": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
ANY_FAMILY = {
    "base", "memory", "host_memory", "placement", "acceleration", "adapters", "precision", "device_errors",
    "group", "kernel_notes", "randomness", "slabs", "streaming", "checks", "clip", "doctor", "families", "loading",
    "needs", "previews", "prompt", "resume", "row_each", "warming",
}  # fmt: skip
"""Modules of das_server/pipeline that know no model family: all but the rooms of the families."""

ADDON_LAYERS = {
    "errors": 0, "compat": 0, "local_server_guard": 0, "local_server_files": 0,
    "protocol": 1, "tracking": 1,
    "client": 2,
    "scene": 3, "footage": 3,
    "shot": 4,
    "child": 5, "local_server": 5,
    "take": 6,
    "jobs": 7, "staging": 7,
    "api": 8, "engine": 8, "ui": 8, "doctor": 8,
    "command_line": 9,
    "commands": 10,
    "registration": 11,
    "": 12, "__main__": 12,
}  # fmt: skip
LAYERS = [(SERVER, SERVER_LAYERS), (ADDON, ADDON_LAYERS)]
"""Packages whose rooms are in order."""

PRINTING = {ADDON / "command_line" / "voice.py", ADDON / "__main__.py", SERVER / "cli.py", SERVER / "cli_jobs.py"}
PRINTING |= {SERVER / "cli_keys.py", SERVER / "cli_status.py", SERVER / "cli_web.py", SERVER / "__main__.py"}


def relative(path) -> str:
    return path.relative_to(ROOT).as_posix()


def roots_of(path) -> set[str]:
    """The first word of everything that a file imports."""
    return {one.name.split(".")[0] for one in imports_of(path)}


# ── Who imports whom ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("package", "layers"), LAYERS, ids=lambda value: getattr(value, "name", "layers"))
def test_every_room_has_its_layer_and_imports_go_down_only(package, layers):
    assert table_faults(package, layers) == []
    assert upward_imports(package, layers) == []


@pytest.mark.parametrize("package", [package for package, _ in LAYERS], ids=relative)
def test_no_modules_import_each_other_not_even_late_or_for_typing(package):
    assert ring_in(graph_of(package)) == []


def test_rules_see_late_imports_and_imports_for_typing_and_name_a_ring():
    when = {one.name: one.when for path in ("cli.py", "tasks/base.py") for one in imports_of(SERVER / path)}
    assert when["das_server.config"] == LOAD
    assert when["das_server.door.server"] == LATE and when["das_server.pipeline.base"] == TYPING
    assert "das_server.door.server" in graph_of(SERVER)["das_server.cli"]
    ring = ring_in({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()})
    assert "".join(ring) in ("abca", "bcab", "cabc")
    assert upward_imports(SERVER, SERVER_LAYERS | {"store": 7}) != []
    assert table_faults(SERVER, {name: 0 for name in SERVER_LAYERS if name != "door"} | {"attic": 0}) == [
        "the room 'door' has no row",
        "the row 'attic' has no room",
    ]


def test_families_have_rooms_of_their_own_and_know_nothing_of_each_other():
    folder = SERVER / "pipeline"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == ANY_FAMILY
    rooms = {path.parent.name for path in folder.glob("*/family.py")}
    assert rooms == {module.split(".")[-2] for module in FAMILY_MODULES.values()}
    graph = graph_of(SERVER)
    for room in rooms:
        start = [name for name in graph if f"{name}.".startswith(f"das_server.pipeline.{room}.")]
        reached = {name.split(".")[2] for name in loaded_with(start, graph) if name.startswith("das_server.pipeline.")}
        assert not reached & (rooms - {room})


@pytest.mark.parametrize("name", sorted(ANY_FAMILY))
def test_part_of_the_pipeline_for_any_family_knows_none(name):
    """Not even for typing, and not through another module."""
    reached = loaded_with([f"das_server.pipeline.{name}"], graph_of(SERVER))
    inside = {module.removeprefix("das_server.pipeline.") for module in reached if "das_server.pipeline." in module}
    assert inside <= ANY_FAMILY
    assert "das_server.models.transformer" not in reached


@pytest.mark.parametrize("path", python_files(SERVER), ids=relative)
def test_rooms_that_outlive_the_gpu_never_import_torch(path):
    """A crash of the GPU is a lost worker, not a dead server."""
    if path.relative_to(SERVER).with_suffix("").parts[0] in ROOMS_WITHOUT_TORCH:
        assert not roots_of(path) & TORCH_MODULES


@pytest.mark.parametrize("room", ROOMS_WITHOUT_TORCH)
def test_nothing_loads_torch_with_rooms_that_outlive_the_gpu(room):
    """Neither what they import nor what that imports …; the tasks, too, which are imported by name."""
    graph = graph_of(SERVER, LOAD) | graph_of(ADDON, LOAD)
    start = [name for name in graph if f"{name}.".startswith(f"das_server.{room}.")]
    assert start
    brought = loaded_with([*start, *TASK_MODULES.values()], graph)
    assert {name: by for name, by in brought.items() if name.split(".")[0] in TORCH_MODULES} == {}


@pytest.mark.parametrize("path", python_files(*(ADDON / room for room in ROOMS_WITHOUT_BPY)), ids=relative)
def test_room_imports_no_blender(path):
    assert not roots_of(path) & BLENDER_MODULES


@pytest.mark.parametrize("room", ROOMS_WITHOUT_BPY)
def test_nothing_brings_blender_into_rooms_without_it(room):
    """Neither what they import nor what that imports …: they can be loaded, and tested, where there is no Blender."""
    graph = graph_of(ADDON)
    start = [name for name in graph if f"{name}.".startswith(f"das_blender_addon.{room}.")]
    assert start
    brought = loaded_with(start, {name: (set() if name == "das_blender_addon" else to) for name, to in graph.items()})
    assert {name: by for name, by in brought.items() if name.split(".")[0] in BLENDER_MODULES} == {}


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
    blender = BLENDER_MODULES | {"_bpy", "bl_ui", "bl_operators"}
    allowed = blender | {"numpy", "zmq", "msgpack", "zstandard", "das_blender_addon"}
    assert roots_of(path) - allowed <= set(sys.stdlib_module_names) | {""}


@pytest.mark.parametrize("path", python_files(ADDON / "protocol", ADDON / "tracking"), ids=relative)
def test_wire_and_geometry_know_no_sockets(path):
    assert "zmq" not in roots_of(path)


@pytest.mark.parametrize("path", python_files(SERVER), ids=relative)
def test_server_imports_only_the_shared_contract_of_the_extension(path):
    shared = ("das_blender_addon.errors.", "das_blender_addon.protocol.", "das_blender_addon.tracking.")
    for one in imports_of(path):
        if one.name.split(".")[0] == "das_blender_addon":
            assert f"{one.name}.".startswith(shared), f"{one.name}, line {one.line}"
    assert not roots_of(path) & BLENDER_MODULES


@pytest.mark.parametrize("path", python_files(ADDON, SERVER), ids=relative)
def test_nobody_pickles(path):
    assert not roots_of(path) & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
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


# ── How long files and functions are ────────────────────────────────────────────────────────────────────────────────

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
"""A function's docstring counts."""
REASON = "though long: "
"""Follows "One file, " or "One function, " in the docstring of one that is longer; then the reason."""


def too_long(source: str) -> list[str]:
    """The file and the functions of ``source`` that are too long and do not say why, with their lines."""
    tree, lines = ast.parse(source), len(source.splitlines())
    found = [f"file {lines}"] if lines > MOST_LINES and not says_why(tree, "One file, ") else []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION and not says_why(node, "One function, "):
                found.append(f"{node.name} {lines}")
    return found


def says_why(node, kind: str) -> bool:
    words = " ".join((ast.get_docstring(node) or "").split())
    return bool(re.search(re.escape(kind + REASON) + r"\w", words))


def test_nothing_is_long_without_a_reason():
    paths = python_files(ADDON, SERVER, ROOT / "tests", ROOT / "scripts")
    assert {relative(path): found for path in paths if (found := too_long(path.read_text()))} == {}


def test_rule_of_lengths_counts_docstrings_and_reads_reasons():
    def function(lines: int, words: str = "", define: str = "def", indent: str = "") -> str:
        body = [f"{define} work():", f'    """Work.\n    {words}"""', *["    pass"] * (lines - 3)]
        return "\n".join(indent + line for line in "\n".join(body).split("\n"))

    most = MOST_LINES_OF_A_FUNCTION
    assert too_long(function(most)) == [] and too_long(function(most + 1)) == [f"work {most + 1}"]
    assert too_long(function(most + 1, define="async def")) == [f"work {most + 1}"]
    assert too_long("class A:\n" + function(most + 1, indent="    ")) == [f"work {most + 1}"]
    assert too_long(function(99, "One function, though long: one table.")) == []
    assert too_long(function(99, "One function, though\n    long: one table.")) == []
    assert too_long(function(99, "One function, though long:")) == ["work 99"]
    assert too_long(function(99, "One file, though long: one table.")) == ["work 99"]
    lines = "\n" * (MOST_LINES - 1)
    assert too_long(f'"""Words."""{lines}') == []
    assert too_long(f'"""Words."""{lines}\na = 1') == [f"file {MOST_LINES + 1}"]
    assert too_long(f'"""Words.  One file, though long: a table."""{lines}\na = 1') == []
