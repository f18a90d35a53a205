# SPDX-License-Identifier: GPL-3.0-or-later
"""On whose behalf a message comes: a user by key, or, where none is needed, by the secret of a user of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from das_blender_addon.protocol.identity import token_in, user_token
from das_server.store.keys import ADMINISTRATOR, AllowedKey


@dataclass(frozen=True)
class Caller:
    """``owner``: whose jobs and blobs it asks for; "" for clients of older releases, which share theirs with everybody.
    ``is_admin``: it may ask for everybody's.
    """

    owner: str = ""
    is_admin: bool = False

    @property
    def sees(self) -> str | None:
        """Whose jobs are listed to it; None: everybody's."""
        return None if self.is_admin else self.owner

    def may(self, owner: str) -> bool:
        """Whether what is ``owner``'s may be seen by this caller, and ended."""
        return self.is_admin or owner in ("", self.owner)


@dataclass(frozen=True)
class Peer:
    """One connection: where replies go, and on whose behalf it speaks."""

    routing_id: bytes
    caller: Caller


class Callers:
    """``admins``: users by key; on this machine, the user who runs the server is one."""

    def __init__(self, admins: Collection[str] = (), token: bytes | None = None):
        self._admins = {ADMINISTRATOR, *admins}
        self._host = _owner_of(user_token() if token is None else token)

    def of_key(self, key: AllowedKey) -> Caller:
        """Who has this key."""
        return Caller(f"user:{key.user}", key.user in self._admins)

    def of_peer(self, peer: bytes) -> Caller:
        """Who has this routing id."""
        owner = _owner_of(token_in(peer))
        return Caller(owner, bool(owner) and owner == self._host)


def _owner_of(token: bytes) -> str:
    return f"local:{hashlib.sha256(token).hexdigest()[:32]}" if token else ""
