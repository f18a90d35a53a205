# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of values in messages, each with its bounds: what lies outside is refused on both sides of the wire.

A field of `messages.py` has one of these types, or a list of them, so that nothing on the wire is without bounds.  They
only keep nonsense and harm out; what a model or a server takes is narrower, and said by `JobRejected`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

MAX_NUMBER = (1 << 63) - 1
"""Largest whole number anywhere in a message: what a signed 64-bit column holds."""

MAX_SIZE_BYTES = 1 << 48
"""Largest size of a blob, and largest offset in it, bytes."""

MAX_SIDE = 1 << 20
"""Longest side of a picture, pixels; most frames and steps, too."""

MAX_SECONDS = 1e12
"""Latest time and longest duration, seconds."""

MAX_LEASE_S = 86_400.0
"""Longest lease of a requester, seconds."""

MAX_TEXT = 100_000
"""Longest text of people's own (a prompt, a sentence), and longest text in a map, characters."""

MAX_PROMPT = 10_000
"""Longest prompt that a task takes, characters."""

MAX_NAME = 4096
"""Longest name (of a model, a device, a field), and longest key of a map, characters."""

MAX_ITEMS = 4096
"""Longest list and largest map, items."""

MAX_PARTS = 10_000
"""Most lists and maps in one message."""

MAX_VALUES = 65_536
"""Most values in all of them."""

MAX_ASKED_PARTS = 2200
"""Most lists and maps in a request: a server reads it while everybody else waits."""

MAX_ASKED_VALUES = 8192
"""Most values in all lists and maps of a request."""


@dataclass(frozen=True)
class Kind:
    """``name``: in docs/protocol.md.  ``low``, ``high``: of a number.  ``most``: characters of a text.  ``pattern``:
    what a text must match as a whole, ``words``: the same in words.
    """

    name: str
    low: float = 0
    high: float = 0
    most: int = 0
    pattern: re.Pattern[str] | None = None
    words: str = ""


Request = Annotated[int, Kind("request", 0, MAX_NUMBER)]
Version = Annotated[int, Kind("version", 0, 1 << 16)]
Count = Annotated[int, Kind("count", 0, MAX_NUMBER)]
SizeBytes = Annotated[int, Kind("size", 0, MAX_SIZE_BYTES)]
Amount = Annotated[int, Kind("amount", -MAX_SIDE, MAX_SIDE)]
Seed = Annotated[int, Kind("seed", -MAX_NUMBER - 1, MAX_NUMBER)]
Weight = Annotated[float, Kind("weight", -1e6, 1e6)]
Seconds = Annotated[float, Kind("seconds", 0, MAX_SECONDS)]
Text = Annotated[str, Kind("text", most=MAX_TEXT)]
Name = Annotated[str, Kind("name", most=MAX_NAME)]
Sha = Annotated[
    str,
    Kind("sha", most=64, pattern=re.compile(r"[0-9a-f]{64}"), words="it must be a SHA-256 in 64 lower-case hex digits"),
]
JobId = Annotated[
    str,
    Kind(
        "job", most=32, pattern=re.compile(r"[0-9a-f]{32}"), words="a job id is 32 lower-case hex digits (uuid4().hex)"
    ),
]
RequesterId = Annotated[
    str,
    Kind(
        "requester",
        most=32,
        pattern=re.compile(r"([0-9a-f]{32})?"),
        words="a requester is 32 lower-case hex digits (uuid4().hex), or empty",
    ),
]
Lease = Annotated[float, Kind("lease", 0, MAX_LEASE_S)]
Priority = Annotated[int, Kind("priority", 0, 9)]

ALL = (Request, Version, Count, SizeBytes, Amount, Seed, Weight, Seconds, Lease, Priority)
ALL += (Text, Name, Sha, JobId, RequesterId)


def kind_of(hint: Any) -> Kind | None:
    """The bounds of an annotated type, None for another type."""
    return getattr(hint, "__metadata__", (None,))[0]


def fitting(text: str, kind: Any = Text) -> str:
    """``text``, cut to what the kind takes: for sentences that others wrote, such as a library's error."""
    most = kind_of(kind).most
    return text if len(text) <= most else text[: most - 1] + "…"
