# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of takes that were begun and left (`pending`).  No Blender in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..client.job_states import UNKNOWN, job_states
from ..errors import DasError
from .pending import PendingTake, pending_takes

NOT_SENT, RUNNING, FINISHED, PARTLY, FAILED, FORGOTTEN, AWAY, NOT_ASKED = (
    "not sent", "running", "finished", "partly", "failed", "forgotten", "away", "not asked",
)  # fmt: skip
WORDS = {
    NOT_SENT: "was not sent yet",
    RUNNING: "is being made on the server",
    FINISHED: "finished on the server",
    PARTLY: "finished in part on the server, the rest was not sent yet",
    FAILED: "failed or was cancelled on the server",
    FORGOTTEN: "is no longer known to the server",
    AWAY: "its server does not answer",
    NOT_ASKED: "its server was not asked",
}


@dataclass(frozen=True)
class Left:
    """A take that was left, and its ``fate``; ``why``: of a server that does not answer, or was not asked."""

    note: PendingTake
    fate: str
    why: str = ""

    @property
    def words(self) -> str:
        """One line for people."""
        first, count = self.note.settings[0], len(self.note.settings)
        what = f"seed {first.seed}" if count == 1 else f"{count} takes"
        return f"{self.note.when} · {what}: {WORDS[self.fate]}"


def left_takes(folder: Path, refusal: Callable[[str], str]) -> list[Left]:
    """The takes of the shot's ``folder`` that were begun and left, each with what became of it; blocks for some seconds
    where a server is away.  ``refusal(server)``: why that must not be asked, "" where it may.
    """
    answers: dict[str, dict[str, str] | str] = {}
    return [_left(note, refusal, answers) for note in pending_takes(folder)]


def _left(note: PendingTake, refusal: Callable[[str], str], answers: dict) -> Left:
    if not note.jobs:
        return Left(note, NOT_SENT)
    server = note.settings[0].server
    why = refusal(server)
    if why:
        return Left(note, NOT_ASKED, why)
    if isinstance(answers.get(server), str):  # it is asked once
        return Left(note, AWAY, answers[server])
    try:
        states = job_states(server, note.jobs.values())
    except DasError as error:
        answers[server] = error.message
        return Left(note, AWAY, error.message)
    return Left(note, fate_of(list(states.values()), note.is_wholly_sent))


def fate_of(states: Sequence[str], is_wholly_sent: bool = True) -> str:
    """That of takes whose jobs are in these ``states``; ``is_wholly_sent``: they have no others."""
    if any(state in ("FAILED", "CANCELLED") for state in states):
        return FAILED
    if all(state == "DONE" for state in states):
        return FINISHED if is_wholly_sent else PARTLY
    return FORGOTTEN if UNKNOWN in states else RUNNING
