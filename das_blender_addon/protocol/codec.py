# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages ⇄ frames: one msgpack header, and one raw blob frame for the messages in `WITH_BLOB`.

Both directions check every field against the dataclasses of `messages.py` and the bounds of `kinds.py`, so that what a
peer sends is either a well-formed message or a `ProtocolError` in one sentence, whatever the bytes.  Unknown extra
fields are ignored: a newer peer may add some.  Unknown event kinds pass for the same reason; unknown message types do
not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from ..errors import MessageTooLarge, ProtocolError
from . import messages
from .kinds import (
    MAX_ASKED_PARTS,
    MAX_ASKED_VALUES,
    MAX_ITEMS,
    MAX_NAME,
    MAX_NUMBER,
    MAX_PARTS,
    MAX_TEXT,
    MAX_VALUES,
    Kind,
    kind_of,
)
from .messages import CHUNK_BYTES, EVENT_FIELDS, EVENT_MAY_HAVE, MAX_HEADER_BYTES, MAX_NESTING, MESSAGES, WITH_BLOB

Frame = bytes | bytearray | memoryview

EASY_BYTES = 1 << 16
"""A header that was refused and has more than this is not read once more."""

_NAMES = {cls: name for name, cls in MESSAGES.items()}
_FREE_INT = Kind("int", -MAX_NUMBER - 1, MAX_NUMBER)
_FREE_FLOAT = Kind("float", -sys.float_info.max, sys.float_info.max)
_FREE_TEXT = Kind("text", most=MAX_TEXT)
_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException)


def encode(message: Any, blob: Frame | None = None) -> list[Frame]:
    """The frames of ``message``: ``[header]``, or ``[header, blob]`` for PUT and CHUNK (no ``blob``: an empty one).

    Raises `ProtocolError` for a value that its field does not take (a NaN, a wrong kind) and `MessageTooLarge`.
    """
    name = _NAMES.get(type(message))
    if name is None:
        raise ProtocolError(
            f"{type(message).__name__} is not a message of the protocol; see docs/protocol.md for the list."
        )
    plain = {"type": name, **to_plain(message, name)}
    try:
        header = msgpack.packb(plain, use_bin_type=True)
        is_request = type(message) in messages.REQUESTS
        if len(header) > (MAX_ASKED_PARTS if is_request else MAX_PARTS):  # in fewer bytes are fewer of them
            _count(plain, _Counts(is_request))
    except (ValueError, TypeError, OverflowError) as error:  # a lone surrogate in a text
        raise ProtocolError(f"{name} cannot be written: {error}; send text that is valid Unicode.") from error
    _check_header_size(len(header), name)
    if name not in WITH_BLOB:
        if blob is not None:
            raise ProtocolError(f"{name} carries no blob frame; only {' and '.join(WITH_BLOB)} do.")
        return [header]
    blob = b"" if blob is None else blob
    _check_blob_size(memoryview(blob).nbytes, name)
    return [header, blob]


def decode(frames: Sequence[Frame], *, is_request: bool = False) -> tuple[Any, memoryview | None]:
    """The message in ``frames`` and its blob (None where it has none); never raises anything but `ProtocolError`.

    ``is_request``: it comes from a client, and must not hold more than a request may.
    """
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(
            f"A message has 1 or 2 frames, this one has {len(frames)}; speak the protocol of docs/protocol.md."
        )
    plain = _unpack(frames[0], is_request)
    name = plain.get("type")
    cls = MESSAGES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError(
            f"The message type {_short(name)} is unknown here; use the same release on both sides.", field="type"
        )
    if name not in WITH_BLOB:
        if len(frames) == 2:
            raise ProtocolError(f"{name} came with a blob frame; only {' and '.join(WITH_BLOB)} carry one.")
        return from_plain(cls, plain, name), None
    if len(frames) == 1:
        raise ProtocolError(f"{name} came without its blob frame; send an empty frame where there are no bytes.")
    blob = memoryview(frames[1]).cast("B")
    _check_blob_size(blob.nbytes, name)
    return from_plain(cls, plain, name), blob


def request_of(frames: Sequence[Frame]) -> int:
    """The request number in ``frames``, for answering a message that `decode` refused; 0 when it cannot be read, or
    not without much work."""
    if not frames or memoryview(frames[0]).nbytes > EASY_BYTES:
        return 0
    try:
        request = _unpack(frames[0], False).get("request")
    except (ProtocolError, IndexError):
        return 0
    return request if type(request) is int and 0 <= request <= MAX_NUMBER else 0


def to_plain(value: Any, where: str = "") -> dict[str, Any]:
    """A dataclass of `messages.py` as a dict of msgpack's own kinds, checked; the inverse of `from_plain`."""
    where = where or type(value).__name__
    plain = {}
    for name, hint, _, fits in _fields(type(value)):
        one = getattr(value, name)
        plain[name] = one if fits(one) else _write(one, hint, f"{where}.{name}")
    if isinstance(value, messages.Event):
        _check_event(plain, where)
    return plain


def from_plain(cls: type, plain: Any, where: str = "") -> Any:
    """Build ``cls`` from a dict; fields without a default must be there, extra ones are ignored."""
    where = where or cls.__name__
    if not isinstance(plain, dict):
        raise ProtocolError(f"{where} must be a map, not {_short(plain)}.", field=where)
    values = {}
    for name, hint, required, fits in _fields(cls):
        if name in plain:
            one = plain[name]
            values[name] = one if fits(one) else _read(one, hint, f"{where}.{name}")
        elif required:
            raise ProtocolError(
                f"{where} lacks its field {name!r}; use the same release on both sides.", field=f"{where}.{name}"
            )
    if cls is messages.Event:
        _check_event(values, where)
    return cls(**values)


# ── Fields ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _fields(cls: type) -> tuple[tuple[str, Any, bool, Callable[[Any], bool]], ...]:
    """(name, type, is it required, see `_fitting`) of each field of ``cls``."""
    if cls not in _NAMES and not (dataclasses.is_dataclass(cls) and cls.__module__ == messages.__name__):
        raise ProtocolError(f"{cls.__name__} is not part of the protocol; see docs/protocol.md for the list.")
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(
        (
            f.name,
            hints[f.name],
            f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING,
            _fitting(hints[f.name]),
        )
        for f in dataclasses.fields(cls)
    )


@functools.cache
def _fitting(hint: Any) -> Callable[[Any], bool]:
    """A quick test whether a value may be taken as it is; where it says no, the checks below say more."""
    if hint is bool:
        return lambda value: type(value) is bool
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) in (list, dict):
        return lambda value: False
    kind, wanted = kind_of(hint), hint.__origin__
    if wanted is str:
        has_form = kind.pattern.fullmatch if kind.pattern else lambda value: True
        return lambda value: type(value) is str and len(value) <= kind.most and has_form(value) is not None
    return lambda value: type(value) is wanted and kind.low <= value <= kind.high


def _read(value: Any, hint: Any, where: str) -> Any:
    """``value`` from the wire as the type ``hint``, or `ProtocolError`."""
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where)
    if typing.get_origin(hint) is list:
        inner = typing.get_args(hint)[0]
        fits = _fitting(inner)
        return [
            item if fits(item) else _read(item, inner, f"{where}[{i}]") for i, item in enumerate(_list(value, where))
        ]
    return _scalar(value, hint, where)


def _write(value: Any, hint: Any, where: str) -> Any:
    """``value`` of the type ``hint`` as a msgpack kind, or `ProtocolError`."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, hint):
            raise ProtocolError(f"{where} must be a {hint.__name__}, not {_short(value)}.", field=where)
        return to_plain(value, where)
    if typing.get_origin(hint) is list:
        inner = typing.get_args(hint)[0]
        return [_write(item, inner, f"{where}[{i}]") for i, item in enumerate(_list(value, where))]
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is bool:
        if type(value) is not bool:
            raise ProtocolError(f"{where} must be true or false, not {_short(value)}.", field=where)
        return value
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ProtocolError(f"{where} must be a map, not {_short(value)}.", field=where)
        return _plain(value, where, 0)
    kind = kind_of(hint)
    return _CHECKS[hint.__origin__](value, kind, where)


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ProtocolError(f"{where} must be a list, not {_short(value)}.", field=where)
    if len(value) > MAX_ITEMS:
        raise _too_long(where, f"{len(value)} items", MAX_ITEMS)
    return value


def _whole(value: Any, kind: Kind, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProtocolError(f"{where} must be a whole number, not {_short(value)}.", field=where)
    if not kind.low <= value <= kind.high:
        raise ProtocolError(f"{where} is {_short(value)}; it must lie between {kind.low} and {kind.high}.", field=where)
    return int(value)


def _number(value: Any, kind: Kind, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProtocolError(f"{where} must be a number, not {_short(value)}.", field=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise ProtocolError(f"{where} is {value}; send a finite number.", field=where)
    if not kind.low <= value <= kind.high:
        bounds = f"{kind.low:g} and {kind.high:g}"
        raise ProtocolError(f"{where} is {_short(value)}; it must lie between {bounds}.", field=where)
    return float(value)


def _text(value: Any, kind: Kind, where: str) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"{where} must be a text, not {_short(value)}.", field=where)
    if kind.pattern and not kind.pattern.fullmatch(value):
        raise ProtocolError(f"{where} is {_short(value)}; {kind.words}.", field=where)
    if len(value) > kind.most:
        raise _too_long(where, f"{len(value)} characters", kind.most)
    return str(value)


_CHECKS = {int: _whole, float: _number, str: _text}


def _plain(value: Any, where: str, depth: int) -> Any:
    """A free-form value: None, bool, int, finite float, str, and lists and text-keyed dicts of them."""
    if depth > MAX_NESTING:
        raise ProtocolError(f"{where} nests deeper than {MAX_NESTING} levels; send a flatter value.", field=where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return _number(value, _FREE_FLOAT, where)
    if isinstance(value, int):
        return _whole(value, _FREE_INT, where)
    if isinstance(value, str):
        return _text(value, _FREE_TEXT, where)
    if isinstance(value, list | tuple):
        return [one if _is_simple(one) else _plain(one, where, depth + 1) for one in _list(value, where)]
    if isinstance(value, dict):
        return {
            str(key): item if _is_simple(item) else _plain(item, f"{where}.{_clip(key)}", depth + 1)
            for key, item in zip(_keys(value, where), value.values(), strict=True)
        }
    raise ProtocolError(f"{where} holds {_short(value)}; send null, a number, a text, a list or a map.", field=where)


def _is_simple(value: Any) -> bool:
    """Whether `_plain` would take it as it is; a quick no is no refusal."""
    kind = type(value)
    if kind is int:
        return -MAX_NUMBER - 1 <= value <= MAX_NUMBER
    if kind is float:
        return _FREE_FLOAT.low <= value <= _FREE_FLOAT.high
    return value is None or kind is bool or (kind is str and len(value) <= MAX_TEXT)


def _keys(value: dict[Any, Any], where: str) -> Sequence[str]:
    if len(value) > MAX_ITEMS:
        raise _too_long(where, f"{len(value)} keys", MAX_ITEMS)
    for key in value:
        if not isinstance(key, str):
            raise ProtocolError(f"{where} has the key {_short(key)}; keys must be text.", field=where)
        if len(key) > MAX_NAME:
            raise _too_long(where, f"a key of {len(key)} characters", MAX_NAME)
    return list(value)


def _check_event(event: dict[str, Any], where: str) -> None:
    """Check the fields of an event whose kind is known; unknown kinds pass, for newer peers."""
    kind, fields = event["kind"], event["fields"]
    for name, hint in EVENT_FIELDS.get(kind, {}).items():
        if name not in fields:
            raise ProtocolError(
                f"The event {kind} lacks its field {name!r}; use the same release on both sides.", field=where
            )
        _read(fields[name], hint, f"{where}.{kind}.{name}")
    for name, hint in EVENT_MAY_HAVE.get(kind, {}).items():
        if name in fields:
            _read(fields[name], hint, f"{where}.{kind}.{name}")


# ── Bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _unpack(header: Frame, is_request: bool) -> dict[str, Any]:
    """The header's map, bounded in size; `ProtocolError` for anything else."""
    view = memoryview(header)
    _check_header_size(view.nbytes, "A message")
    counts = _Counts(is_request)
    try:
        plain = msgpack.unpackb(
            view,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_HEADER_BYTES,
            max_bin_len=0,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
            list_hook=counts,
            object_hook=counts,
        )
    except _UNPACK_ERRORS as error:
        raise ProtocolError(
            f"{view.nbytes} bytes are not a message of this protocol ({_clip(str(error)) or type(error).__name__}); "
            "check that both sides are Diffusion as Shader."
        ) from error
    if not isinstance(plain, dict):
        raise ProtocolError(
            f"A message's header must be a map, not {_short(plain)}; speak the protocol of docs/protocol.md."
        )
    return plain


class _Counts:
    """Lists and maps of one header, and what is in them; too many of either cost time, however few bytes they are."""

    def __init__(self, is_request: bool) -> None:
        self._parts = self._values = 0
        self._most = (MAX_ASKED_PARTS, MAX_ASKED_VALUES) if is_request else (MAX_PARTS, MAX_VALUES)

    def __call__(self, part: Any) -> Any:
        self._parts += 1
        self._values += len(part)
        most_parts, most_values = self._most
        if self._parts > most_parts or self._values > most_values:
            raise ValueError(f"more than {most_parts} lists and maps, or {most_values} values in them")
        return part


def _count(value: Any, counts: _Counts) -> None:
    if isinstance(value, dict | list):
        for one in counts(value).values() if isinstance(value, dict) else counts(value):
            _count(one, counts)


def _check_header_size(size_bytes: int, name: str) -> None:
    if size_bytes > MAX_HEADER_BYTES:
        raise MessageTooLarge(
            f"{name} has a header of {size_bytes} bytes; the limit is {MAX_HEADER_BYTES}: shorten its texts or lists."
        )


def _check_blob_size(size_bytes: int, name: str) -> None:
    if size_bytes > CHUNK_BYTES:
        raise MessageTooLarge(f"{name} carries {size_bytes} bytes; the limit is {CHUNK_BYTES}: send smaller pieces.")


def _too_long(where: str, what: str, most: int) -> MessageTooLarge:
    return MessageTooLarge(f"{where} has {what}; at most {most} are taken: shorten it.", field=where)


def _clip(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _short(value: Any) -> str:
    """A value in a few words, safe to put in a sentence however large or odd it is."""
    if isinstance(value, str):
        return repr(_clip(value))
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else "a number of more than 64 bits"
    return f"a {type(value).__name__}"
