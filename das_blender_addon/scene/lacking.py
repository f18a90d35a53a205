# SPDX-License-Identifier: GPL-3.0-or-later
"""What an opened file lacks, of which Blender only warns: it may render, and look wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator

import bpy

from ..errors import SceneError

NAMED = 3
"""So many missing things a sentence names."""


def check_complete() -> None:
    """Raise `SceneError` for what the open file lacks (``--strict``), see `lacking`."""
    found = lacking()
    if found:
        raise SceneError(f"{'; '.join(found)}: mend the file, or leave out --strict.", field="strict")


def lacking() -> list[str]:
    """What Blender only warns of: a file of a newer Blender, missing libraries, what is missing in them, missing
    images; one clause each.
    """
    found = []
    version, newest = bpy.data.version[:2], bpy.app.version[:2]
    if version > newest:
        found.append(f"The file was saved by Blender {'.'.join(map(str, version))}, newer than this one")
    libraries = [library for library in bpy.data.libraries if library.is_missing and not library.packed_file]
    found += _missing("library", "libraries", [library.filepath for library in libraries])
    found += _missing("linked data-block", "linked data-blocks", [block.name_full for block in _missing_blocks()])
    found += _missing("image", "images", [image.filepath for image in bpy.data.images if is_missing(image)])
    return found


def missing_links() -> list[str]:
    """The libraries, and what is linked, that the open file lacks, by their full names."""
    if not bpy.data.libraries:
        return []
    libraries = [library.name_full for library in bpy.data.libraries if library.is_missing and not library.packed_file]
    return [*libraries, *(block.name_full for block in _missing_blocks())]


def check_links(known: list[str]) -> None:
    """Raise `SceneError` for what the open file, a copy of another one, lacks though the other one has it open:
    ``known`` is `missing_links` of that one.
    """
    lost = [name for name in missing_links() if name not in known]
    for words in _missing("linked data-block", "linked data-blocks", lost):
        raise SceneError(
            f"{words} on the disk by now, and a second Blender cannot read what only this one has open; bring the "
            "library back, or make what is linked local."
        )


def _missing(one: str, many: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    what = f"The {one}" if len(names) == 1 else f"{len(names)} {many}"
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return [f"{what} {shown}{more} {'is' if len(names) == 1 else 'are'} missing"]


def _missing_blocks() -> Iterator[bpy.types.ID]:
    for owned in bpy.data.user_map():
        if owned.is_missing and not isinstance(owned, bpy.types.Library):
            yield owned


def is_missing(image) -> bool:
    """Whether an image that is used has a file that is not there."""
    if image.source not in ("FILE", "SEQUENCE", "MOVIE") or not image.filepath or image.packed_file or not image.users:
        return False
    file = bpy.path.abspath(image.filepath, library=image.library)
    return not os.path.exists(file)
