# SPDX-License-Identifier: GPL-3.0-or-later
"""The line that lets a machine in: where the server is, its public key, and a secret key for one use."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SettingsError

_LINE = re.compile(
    r"das-pair:(?P<address>\[[0-9a-fA-F:.%]+\]:\d+|[^\s:/\[\]]+:\d+):(?P<server>[0-9a-f]{64}):(?P<key>[0-9a-f]{64})"
)
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
"""Of Z85, in which ZeroMQ writes keys (rfc.zeromq.org/spec/32); the line has hexadecimal ones, which shells take."""


@dataclass(frozen=True)
class Pairing:
    """``address``: "tcp://host:port".  ``server``: its public key, ``secret``: the key for one use, both in Z85."""

    address: str
    server: str
    secret: str

    @property
    def line(self) -> str:
        """What is printed and pasted."""
        return f"das-pair:{self.address.removeprefix('tcp://')}:{_to_hex(self.server)}:{_to_hex(self.secret)}"


def read_pairing(line: str) -> Pairing:
    """The pairing in a pasted line; raises `SettingsError`, without repeating the secret."""
    found = _LINE.fullmatch("".join(line.split()))
    if found is None:
        raise SettingsError(
            "This is not a line that das-server keys pair prints, which begins with das-pair: and has two keys at its "
            "end; paste the whole line.",
            field="server",
        )
    return Pairing(f"tcp://{found['address']}", _to_z85(found["server"]), _to_z85(found["key"]))


def _to_hex(key: str) -> str:
    values = [_DIGITS.index(digit) for digit in key]
    words = [
        sum(value * 85 ** (4 - at) for at, value in enumerate(values[start : start + 5])) for start in range(0, 40, 5)
    ]
    return "".join(f"{word:08x}" for word in words)


def _to_z85(key: str) -> str:
    words = [int(key[start : start + 8], 16) for start in range(0, 64, 8)]
    return "".join(_DIGITS[word // 85 ** (4 - at) % 85] for word in words for at in range(5))
