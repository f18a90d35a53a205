# SPDX-License-Identifier: GPL-3.0-or-later
"""The guides speak of commands, variables and functions that exist as they are written."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from das_server.cli import _parser
from das_server.config import ENVIRONMENT_PREFIX, ServerConfig

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"das-server ((?:serve|status|drain|web|doctor|models|train|version)\b[^`\n]*)")


def server_commands():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            in_code = line.startswith("das-server ") or line.strip().startswith("das/bin/das-server ")
            spans = [line] if in_code else re.findall(r"`([^`]*)`", line)
            for span in spans:
                yield from (match[1].strip() for match in COMMAND.finditer(span))


def addon_names(module: str, name: str) -> list[str]:
    """The strings of the module-level tuple or list ``name`` of a module of the extension, read without Blender."""
    tree = ast.parse((ROOT / "das_blender_addon" / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets] == [name]:
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{module}.py has no {name}")


def test_guides_name_server_commands():
    assert len(set(server_commands())) > 8


@pytest.mark.parametrize("command", sorted(set(server_commands())))
def test_server_command_of_a_guide_is_understood(command):
    words = command.replace("[", "").replace("]", "").split()
    if words != ["models"]:  # named as a group
        _parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_of_a_guide_exist(page):
    known = {*addon_names("shot/settings", "ENVIRONMENT"), "DAS_SERVER_EXECUTABLE", "DAS_SERVER_CONFIG"}
    known |= {"DAS_KEYS", "DAS_TOKEN"}
    known |= {ENVIRONMENT_PREFIX + field.name.upper() for field in dataclasses.fields(ServerConfig)}
    found = set(re.findall(r"\bDAS_[A-Z][A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    classes = {name for name in found if re.match(r"DAS_(OT|PT|PG|AP|RE)", name)}
    assert found - classes <= known


def test_scripting_guide_names_what_the_interface_offers():
    text = (ROOT / "docs" / "guides" / "scripting.md").read_text(encoding="utf-8")
    called = set(re.findall(r"api\.(\w+)\(", text))
    stations = re.search(r"one by one: (.*?)\.", text, re.S)[1]
    called |= set(re.findall(r"`(\w+)`", stations))
    assert len(called) > 6 and called <= set(addon_names("api", "__all__"))
