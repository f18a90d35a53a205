# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a shot's data may go: a server that is stored in a .blend counts when its user agreed, for it may be a
stranger's file.

In a window the user is asked once for a file and an address; the answer is kept in the user's folder, never in the
file.  Without a window nobody can be asked: there a file may name a server of this machine, any other one has to be
named by the environment, the command line or a script.  Whoever sets `Scene.das.server` in this session has agreed.
"""

from __future__ import annotations

import json
import logging
import os

import bpy

from ..client.address import is_loopback, normalise_address
from ..client.files import write_whole
from ..errors import SettingsError, StorageError
from . import machine

LOGGER = logging.getLogger(__name__)
USE_FILES, USE_MINE = "file", "mine"
KEPT_ANSWERS = 1000

_answers: dict[tuple[str, str], str] = {}
"""(file, address) → the answer of this session."""


# ── Which server counts ─────────────────────────────────────────────────────────────────────────────────────────────


def own_server() -> str:
    """The server that counts where neither environment nor file chooses: a local one, else that of the preferences."""
    return machine.local_address() or machine.machine_settings().server


def chosen_server(scene, environment=None) -> str:
    """The server of the scene's shot: the environment's, the scene's unless its user said no, the user's own."""
    environment = os.environ if environment is None else environment
    stored = scene.das.server
    if stored and answer(stored) == USE_MINE:
        stored = ""
    return environment.get("DAS_SERVER", "") or stored or own_server()


def question(scene, *, in_window: bool | None = None, environment=None) -> str:
    """Why the scene's server does not count yet, as a sentence; "" when it does.

    ``in_window``: whether there is somebody to ask; None for what this Blender is.
    """
    environment = os.environ if environment is None else environment
    in_window = not bpy.app.background if in_window is None else in_window
    stored = scene.das.server
    if not stored or environment.get("DAS_SERVER", "") or answer(stored) or _is_own(stored):
        return ""
    if in_window:
        return (
            f"This file chooses the server {stored} and yours is {own_server()}: decide in the panel, with Use This "
            "File's Server or Use Mine."
        )
    if is_loopback(stored):
        return ""
    return (
        f"The file chooses the server {stored} on another machine; if you trust the file, name that server yourself, "
        f"with DAS_SERVER={stored} or --server {stored}."
    )


def check_server(scene, server: str, *, named: bool = False) -> None:
    """Raise `SettingsError` where a job about ``scene`` must not go to ``server``: the file alone chose it, or it is on
    another machine while Blender is offline.  ``named``: a script has named it.
    """
    words = "" if named else question(scene)
    if words:
        raise SettingsError(words, field="server")
    machine.check_online_access(server)


def _is_own(stored: str) -> bool:
    return _normal(stored) in (_normal(machine.machine_settings().server), machine.local_address())


def _normal(address: str) -> str:
    try:
        return normalise_address(address)
    except SettingsError:  # told where it is used
        return address


# ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def answer(address: str) -> str:
    """What the user said of ``address`` in the open file: `USE_FILES`, `USE_MINE`, or "" for nothing yet."""
    file, address = _open_file(), _normal(address)
    return _answers.get((file, address), "") or (_kept().get(file, {}).get(address, "") if file else "")


def remember_answer(address: str, said: str, *, keep: bool = True) -> None:
    """The user has said so of the open file.  ``keep``: over the session, too; not of a file that was never saved."""
    file, address = _open_file(), _normal(address)
    _answers[file, address] = said
    if file and keep:
        _keep(file, {address: said})


def follow_file(old_file: str) -> None:
    """The open file was ``old_file`` ("" for one never saved) and has another name now: its answers go with it."""
    file, kept = _open_file(), _kept().get(old_file, {})
    said = {address: one for (its_file, address), one in _answers.items() if its_file == old_file}
    _answers.update({(file, address): one for address, one in said.items()})
    kept = kept if bpy.app.background else {**kept, **said}
    if kept and file:
        _keep(file, kept)


def forget_unsaved() -> None:
    """Another file is opened: what was said of one that was never saved is said of no other."""
    for key in [key for key in _answers if not key[0]]:
        del _answers[key]


def _open_file() -> str:
    return os.path.realpath(bpy.data.filepath) if bpy.data.filepath else ""


def _path():
    return machine.user_folder("servers") / "answers.json"


_read: tuple[int, dict[str, dict[str, str]]] = (0, {})
"""Time of the last change of the kept answers, and what they were then: panels ask often."""


def _kept() -> dict[str, dict[str, str]]:
    """File → address → answer, as kept over sessions."""
    global _read
    try:
        changed = _path().stat().st_mtime_ns
        if changed != _read[0]:
            said = json.loads(_path().read_text(encoding="utf-8"))
            _read = (changed, {str(file): dict(answers) for file, answers in said.items()})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        LOGGER.warning("The kept answers about servers cannot be read: %s", error)
        return {}
    return _read[1]


def _keep(file: str, said: dict[str, str]) -> None:
    kept = {**_kept()}
    kept[file] = {**kept.pop(file, {}), **said}
    newest = dict(list(kept.items())[-KEPT_ANSWERS:])
    try:
        write_whole(_path(), json.dumps(newest, indent=1).encode())
    except StorageError as error:  # then it is asked once more
        LOGGER.warning("The answer about the server is not kept: %s", error.message)
