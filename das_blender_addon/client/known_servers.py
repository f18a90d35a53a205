# SPDX-License-Identifier: GPL-3.0-or-later
"""What the servers that this session asked said of themselves.  Filled by whoever learns it, read by panels; asks no
network.
"""

from __future__ import annotations

from ..protocol.messages import Capabilities, Welcome

_welcomes: dict[str, Welcome] = {}
_last_server = ""
_answers: dict[str, int] = {}
"""Server → the number of its last answer, counted over all servers."""


def remember_server(server: str, welcome: Welcome) -> None:
    """Keep what ``server`` said of itself for the panels."""
    global _last_server
    _welcomes[server] = welcome
    _last_server = server
    _answers[server] = num_answers() + 1


def num_answers() -> int:
    """How often servers have answered in this session."""
    return max(_answers.values(), default=0)


def has_answered_since(server: str, answers: int) -> bool:
    """Whether ``server`` has answered since `num_answers` was ``answers``."""
    return _answers.get(server, 0) > answers


def known_server(server: str | None = None) -> Welcome | None:
    """What ``server`` (None: whichever answered last) said when it was last asked; None when it never was.  No
    network.
    """
    return _welcomes.get(server if server is not None else _last_server)


def known_capabilities(server: str | None = None) -> Capabilities | None:
    """What `known_server` offers."""
    welcome = known_server(server)
    return welcome.capabilities if welcome is not None else None


def forget_servers() -> None:
    """As if none had been asked."""
    _welcomes.clear()
    _answers.clear()


def words_of_server(welcome: Welcome) -> str:
    """One line for people: which server, on what."""
    return f"{welcome.server} on {', '.join(welcome.capabilities.devices)}"
