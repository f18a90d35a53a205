# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the results of a command go: looked at before any work begins, and written to at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import bpy

from ..client.files import folder_refusal, write_whole
from ..errors import SettingsError, StorageError


def output_folder(chosen: str, what: str) -> Path | None:
    """The folder ``chosen``, absolute; None for "".  ``//`` at its beginning is the folder of the open file.

    ``what``: goes there, for the message.  Raises `SettingsError`, and `StorageError` when it cannot be written to.
    """
    if not chosen:
        return None
    folder = _absolute(chosen, "output")
    refusal = folder_refusal(folder)
    if refusal:
        raise StorageError(f"{what} cannot be written into {folder}: {refusal}.", field="output")
    return folder


def blend_file(chosen: str) -> Path | None:
    """The .blend file ``chosen``, absolute; None for "".  Raises as `output_folder` does, and where its folder is
    missing.
    """
    if not chosen:
        return None
    file = _absolute(chosen, "blend")
    if file.is_dir() or (os.path.lexists(file) and not file.is_file()):
        raise SettingsError(f"{file} is no file and cannot become a .blend; name another.", field="blend")
    if not file.parent.is_dir():
        raise SettingsError(
            f"{file} cannot be written: there is no folder {file.parent}; make it, or name another file.", field="blend"
        )
    refusal = folder_refusal(file.parent)
    if refusal:
        raise StorageError(f"{file} cannot be written: {refusal}.", field="blend")
    return file


def copy_frames(
    numbered: Iterable[tuple[int, Path]], folder: Path | None, changed: Callable[[int], bytes] | None = None
) -> list[Path]:
    """Copy the frames into ``folder`` under their numbers, each whole or not at all; None leaves them where they are.

    ``changed(number)``: what goes there in place of a frame's own bytes.  Raises `StorageError`.
    """
    if folder is None:
        return [Path(path) for _, path in numbered]
    copies = []
    try:
        for number, path in numbered:
            copies.append(folder / f"{number:04d}.png")
            write_whole(copies[-1], changed(number) if changed is not None else Path(path).read_bytes())
    except OSError as error:
        raise StorageError(f"The frames cannot be written into {folder}: {error.strerror}.") from error
    return copies


def save_blend(file: Path) -> None:
    """Save a copy of what is open as ``file``.  Raises `StorageError`."""
    try:
        bpy.ops.wm.save_as_mainfile(filepath=os.fspath(file), copy=True)
    except RuntimeError as error:
        raise StorageError(f"{file} cannot be written ({str(error).strip()}); the frames are complete.") from error


def _absolute(chosen: str, field: str) -> Path:
    """``chosen`` as Blender's own paths are meant: ``//`` is beside the open file, else it is the shell's."""
    if chosen.startswith("//"):
        if not bpy.data.filepath:
            raise SettingsError(
                f"{chosen} lies beside the open file, and that was never saved; write a path without //.", field=field
            )
        chosen = bpy.path.abspath(chosen)
    return Path(os.path.realpath(chosen))
