# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine's OpenColorIO configuration says of itself and Blender does not: its roles, and the colour space of
each of its views.  It is read as text, since not every Blender lets Python have OpenColorIO.  No Blender in here.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

LOGGER = logging.getLogger(__name__)
PICTURE_ROLES = ("default_byte", "matte_paint")
"""Roles for finished 8-bit pictures, the first that there is; those for choosing colours and for painting textures are
often no such space.
"""
_PAIR = re.compile(r"""([\w ]+?)\s*:\s*("[^"]*"|'[^']*'|[^,{}\[\]#]+)""")


@dataclass
class Configuration:
    """``roles``: role → colour space.  ``views``: display → view → colour space; no views of another kind."""

    roles: dict[str, str] = field(default_factory=dict)
    views: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def picture_role(self) -> str:
        """The one of `PICTURE_ROLES`, "" for none."""
        return next((role for role in PICTURE_ROLES if role in self.roles), "")

    @property
    def picture_space(self) -> str:
        """The colour space of `picture_role`, "" for none."""
        return self.roles.get(self.picture_role, "")

    def picture_views(self, display: str) -> list[str]:
        """The views of ``display`` in `picture_space`."""
        space = self.picture_space.casefold()
        views = self.views.get(display, {}) if space else {}
        return [
            view
            for view, shown in views.items()
            if space in (shown.casefold(), self.roles.get(shown.casefold(), "").casefold())
        ]


def configuration() -> Configuration:
    """That of the environment variable ``OCIO``; one that knows nothing where there is none that can be read."""
    return _read(os.environ.get("OCIO", ""))


@functools.cache  # Blender, too, reads it once
def _read(path: str) -> Configuration:
    if not path or path.startswith("ocio://"):
        return Configuration()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                text = archive.read("config.ocio").decode("utf-8", "replace")
        else:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        LOGGER.debug("the colour configuration %s cannot be read: %s", path, error)
        return Configuration()
    return parse(text)


def parse(text: str) -> Configuration:
    """The roles and views in the text of a configuration, as far as it is understood: never raises."""
    found = Configuration()
    shared: dict[str, str] = {}
    for display, words in _views(text):
        if "!<Views>" in words:
            names = [_bare(name) for name in words.partition("[")[2].partition("]")[0].split(",")]
            view_spaces = {name: shared[name] for name in names if name in shared}
        else:
            said = {key.strip(): _bare(value) for key, value in _PAIR.findall(words.partition("!<View>")[2])}
            view_spaces = {said["name"]: said["colorspace"]} if {"name", "colorspace"} <= said.keys() else {}
        (shared if not display else found.views.setdefault(display, {})).update(view_spaces)
    roles = "\n".join(words for section, words in _sections(text) if section == "roles")
    found.roles = {key.strip().lower(): _bare(value) for key, value in _PAIR.findall(roles.replace("\n", ",\n"))}
    return found


def _sections(text: str) -> list[tuple[str, str]]:
    """The top-level keys of the text, and what stands in them; comments are left out."""
    sections: list[tuple[str, str]] = []
    for line in text.splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if re.match(r"\w+:", words):
            key, _, rest = words.partition(":")
            sections.append((key, rest))
        elif words and sections:
            sections[-1] = (sections[-1][0], f"{sections[-1][1]}\n{words}")
    return sections


def _views(text: str) -> list[tuple[str, str]]:
    """(display, words) of each of the views, "" for those that displays share, which come first."""
    found = []
    for section, words in sorted(_sections(text), key=lambda one: one[0] != "shared_views"):
        if section not in ("shared_views", "displays"):
            continue
        display = ""
        for line in filter(str.strip, words.splitlines()):
            if line.lstrip().startswith("-"):
                found.append((display, line))
            elif section == "displays" and line.endswith(":"):
                display = _bare(line.strip()[:-1])
            elif found:  # a view that is written over several lines
                found[-1] = (found[-1][0], f"{found[-1][1]}, {line.strip()}")
    return found


def _bare(word: str) -> str:
    return word.strip().strip("\"'")
