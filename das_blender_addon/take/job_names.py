# SPDX-License-Identifier: GPL-3.0-or-later
"""The ids of a take's jobs: made of what they ask for, so that whoever asks for the same goes on with them.  No Blender
in here.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

from ..errors import SettingsError
from .cache import Take, read_json

ID_DIGITS = 32


def id_of_job(key: str, anew: bool | str = False) -> str:
    """The id of the job with the key ``key``: one of its own where it is made ``anew``, the same for the same word."""
    if not anew:
        return key[:ID_DIGITS]
    if anew is True:
        return uuid.uuid4().hex
    return hashlib.sha256(f"{anew} {key}".encode()).hexdigest()[:ID_DIGITS]


def check_job(number: int, job: str, resumes: Mapping[int, str]) -> None:
    """Raise `SettingsError` where ``resumes`` names another job than ``job`` for the window ``number``."""
    if resumes.get(number, job) != job:
        raise SettingsError(
            "The shot is not what it was when this take was begun: its geometry, pictures or settings differ, so that "
            "another job would be made; bring back what was changed, or use Render Take for the shot as it is now.",
            field="take",
        )


def check_resumed(take: Take, resumes: Mapping[int, str]) -> None:
    """`check_job` for every window of a finished ``take``."""
    said = read_json(take.folder / "take.json") or {}
    for number, window in enumerate(said.get("windows", ())):
        check_job(number, id_of_job(window["job_key"]), resumes)
