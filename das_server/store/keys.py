# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys on disk: the server's own, and those that it lets in, each of one user's one machine.  No torch.

    keys/server.json   the server's key pair
    keys/admin.json    that of the commands on its own machine
    keys/allowed.json  public keys, whose they are, and until when those for one use

Files are their owner's alone (0600) and replaced whole; a running server sees a change with the next handshake.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import zmq

from das_blender_addon.errors import SettingsError, StorageError
from das_server.config import SERVER_KEY
from das_server.store.state_lock import lock_file

FOLDER, SERVER, ALLOWED = SERVER_KEY.parent.name, SERVER_KEY.name, "allowed.json"
ADMIN = "admin.json"
LOCK = "lock"
ADMINISTRATOR = "administrator"
"""The user that the commands on the server's own machine are."""

PAIRING_S = 600.0
"""How long a key for one use is let in."""


@dataclass(frozen=True)
class AllowedKey:
    """``public``: the key in Z85.  ``user``: whose it is; jobs and blobs are theirs, whichever of their machines asks.
    ``until_s``: 0 for a key that stays; else it may only be exchanged for one that does, until then (Unix time).
    """

    public: str
    user: str
    machine: str = ""
    created_s: float = 0.0
    until_s: float = 0.0

    @property
    def is_for_one_use(self) -> bool:
        return self.until_s > 0

    def is_let_in(self, now_s: float) -> bool:
        """At this Unix time; a clock that was set back makes no key for one use last longer."""
        return not self.is_for_one_use or 0 < self.until_s - now_s <= PAIRING_S


def _allowed_key(about: dict[str, object]) -> AllowedKey:
    """As it is stored; fields that this release does not know are passed over."""
    one = AllowedKey(**{name: value for name, value in about.items() if name in AllowedKey.__dataclass_fields__})
    if not all(isinstance(text, str) for text in (one.public, one.user, one.machine)):
        raise TypeError("a name is no text")
    if not all(type(time_s) in (int, float) for time_s in (one.created_s, one.until_s)):
        raise TypeError("a time is no number")
    return one


def _one_at_a_time(method):
    """Of the methods that change the list of a key ring, in whichever process: none writes over what another has."""

    @functools.wraps(method)
    def alone(self: KeyRing, *arguments: object):
        with self._locked():
            return method(self, *arguments)

    return alone


class KeyRing:
    """The keys of the server with this state folder; every method raises `StorageError` when the disk refuses, those
    that change something also where another process does so for longer than ``wait_s``."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time, *, wait_s: float = 10.0):
        self._folder = state / FOLDER
        self._clock, self._wait_s = clock, wait_s
        self._seen: tuple[int, int] | None = None
        self._allowed: dict[str, AllowedKey] = {}

    def has_server_key(self) -> bool:
        return (self._folder / SERVER).is_file()

    @_one_at_a_time
    def create(self) -> str:
        """Make the server's key pair unless it is there → its public key."""
        if not self.has_server_key():
            public, secret = (key.decode() for key in zmq.curve_keypair())
            self._write(ADMIN, {"public": public, "secret": secret})
            self._save([*self.allowed(), AllowedKey(public, ADMINISTRATOR, "this machine", self._clock())])
            public, secret = (key.decode() for key in zmq.curve_keypair())
            self._write(SERVER, {"public": public, "secret": secret})
        return self.server_keys()[0]

    def admin_keys(self) -> tuple[str, str, str] | None:
        """(the server's public key, public, secret) for the commands on this machine, None where there are none."""
        if not self.has_server_key() or not (self._folder / ADMIN).is_file():
            return None
        about = self._read(ADMIN)
        return self.server_keys()[0], about["public"], about["secret"]

    def server_keys(self) -> tuple[str, str]:
        """(public, secret) in Z85; raises `SettingsError` where there are none."""
        if not self.has_server_key():
            raise SettingsError("The server has no keys; make them with das-server keys create.", field="bind")
        about = self._read(SERVER)
        return about["public"], about["secret"]

    def allowed(self) -> list[AllowedKey]:
        """Those that are let in now."""
        self._reload()
        now = self._clock()
        return [one for one in self._allowed.values() if one.is_let_in(now)]

    def find(self, public: str) -> AllowedKey | None:
        """What is known of a key that is let in now."""
        self._reload()
        one = self._allowed.get(public)
        return one if one is not None and one.is_let_in(self._clock()) else None

    @_one_at_a_time
    def pair(self, user: str) -> str:
        """A key for one use by ``user`` → its secret."""
        if not user.isprintable() or not user.strip() or len(user) > 100:
            raise SettingsError(f"The user {user[:100]!r} must have 1 to 100 printable characters.", field="user")
        public, secret = zmq.curve_keypair()
        now = self._clock()
        self._save([*self.allowed(), AllowedKey(public.decode(), user.strip(), "", now, now + PAIRING_S)])
        return secret.decode()

    @_one_at_a_time
    def exchange(self, one_use: str, public: str, machine: str) -> AllowedKey:
        """Let ``public`` in for good in place of a key for one use, for the same user; once more is harmless."""
        known, new = self.find(one_use), self.find(public)
        if new is not None and not new.is_for_one_use:
            return new
        if known is None or not known.is_for_one_use or known.public == public:
            raise SettingsError(
                "This key cannot be exchanged; ask for a new line of das-server keys pair.", field="key"
            )
        new = AllowedKey(public, known.user, machine, self._clock())
        self._save([*(one for one in self.allowed() if one.public != one_use), new])
        return new

    @_one_at_a_time
    def revoke(self, name: str) -> list[AllowedKey]:
        """Let in no more: all keys of a user, or the one key that begins so (8 characters at least)."""
        gone = [one for one in self.allowed() if one.user == name or (len(name) >= 8 and one.public.startswith(name))]
        if not gone:
            raise SettingsError(f"No key of {name[:100]!r} is let in; see das-server keys list.", field="user")
        self._save([one for one in self.allowed() if one not in gone])
        return gone

    # ── Files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.fdopen(os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise StorageError(f"The keys in {self._folder} cannot be locked: {error.strerror}.") from error
        with file:
            self._wait_for(file)
            yield

    def _wait_for(self, lock: IO) -> None:
        until_s = time.monotonic() + self._wait_s
        while True:
            try:
                return lock_file(lock)
            except OSError as error:
                if time.monotonic() >= until_s:
                    raise StorageError(
                        f"The keys in {self._folder} are being changed by another process; try again, or end a "
                        "das-server keys that hangs."
                    ) from error
            time.sleep(0.002)

    def _reload(self) -> None:
        path = self._folder / ALLOWED
        try:
            found = path.stat()
        except FileNotFoundError:
            self._seen, self._allowed = None, {}
            return
        except OSError as error:
            raise StorageError(f"The keys in {path} cannot be read: {error.strerror}.") from error
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            self._seen, self._allowed = None, {}
            try:
                read = self._read(ALLOWED)
                if not isinstance(read, list):
                    raise TypeError("they are no list")
                keys = [_allowed_key(one) for one in read]
                self._allowed = {one.public: one for one in keys}
            except (TypeError, KeyError, AttributeError) as error:
                raise StorageError(f"The keys in {path} are damaged, and nobody is let in: {error}.") from error
            self._seen = seen

    def _save(self, allowed: list[AllowedKey]) -> None:
        self._write(ALLOWED, [asdict(one) for one in allowed])

    def _read(self, name: str):
        path = self._folder / name
        try:
            mode = path.stat().st_mode & 0o777
            if os.name == "posix" and mode & (0o022 if name == ALLOWED else 0o077):
                raise StorageError(
                    f"Others than its owner may read or change {path} (mode {mode:o}), so that it is not trusted; make "
                    "it your own with chmod 600, or make new keys where others may have read it."
                )
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(f"The keys in {path} cannot be read: {error}.") from error

    def _write(self, name: str, value: object) -> None:
        part = self._folder / f"{name}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.unlink(missing_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(value, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._folder / name)
        except OSError as error:
            raise StorageError(f"The keys in {self._folder} cannot be written: {error.strerror}.") from error
