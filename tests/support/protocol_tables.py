# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of docs/protocol.md, made from the code; `python -m tests.support.protocol_tables` rewrites them there.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path

from das_blender_addon import errors
from das_blender_addon.protocol import frames, kinds, messages

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
PARTS = (
    messages.JobSpec,
    messages.JobInput,
    messages.Artefact,
    messages.SizeRange,
    messages.ModelCapability,
    messages.EstimatorCapability,
    messages.Capabilities,
)
LIMITS = ("CHUNK_BYTES", "FETCH_CREDIT", "MAX_HEADER_BYTES", "MAX_NESTING", "DEFAULT_PORT", "HEARTBEAT_S")
LIMITS += ("MIN_LEASE_S", "MAX_FRAME_BYTES", "FRAME_EXTRA_BYTES", "BATCH", "INTERACTIVE")
KIND_LIMITS = ("MAX_ITEMS", "MAX_PARTS", "MAX_VALUES", "MAX_ASKED_PARTS", "MAX_ASKED_VALUES")
KIND_LIMITS += ("MAX_TEXT", "MAX_NAME", "MAX_SECONDS")
_MARKED = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.S)


def tables() -> dict[str, str]:
    """Name → Markdown of every table."""
    return {
        "versions": ", ".join(map(str, messages.PROTOCOL_VERSIONS)) + "\n",
        "messages": _message_table(),
        "parts": "\n".join(f"**{cls.__name__}**: {_first_sentence(cls)}\n\n{_field_table(cls)}" for cls in PARTS),
        "events": _event_table(),
        "stages": ", ".join(messages.PROGRESS_STAGES) + "\n",
        "limits": _limit_table(),
        "kinds": _kind_table(),
        "dtypes": ", ".join(frames.DTYPES) + "\n",
        "errors": _error_table(),
    }


def with_tables(page: str) -> str:
    """``page`` with every marked table made anew."""
    made = tables()
    return _MARKED.sub(lambda match: f"<!-- table: {match[1]} -->\n\n{made[match[1]]}\n<!-- end -->", page)


def names_in(page: str) -> list[str]:
    """The tables that ``page`` marks."""
    return [match[1] for match in _MARKED.finditer(page)]


def _limit_table() -> str:
    rows = [(f"`{name}`", f"{getattr(messages, name):.12g}") for name in LIMITS]
    return _rows(("Name", "Value"), rows + [(f"`{name}`", f"{getattr(kinds, name):.12g}") for name in KIND_LIMITS])


def _kind_table() -> str:
    return _rows(("Kind", "Type", "Bounds"), [_bounds_of(kinds.kind_of(hint), hint.__origin__) for hint in kinds.ALL])


def _bounds_of(kind: kinds.Kind, plain: type) -> tuple[str, str, str]:
    if plain is str:
        words = f"`{kind.pattern.pattern}`" if kind.pattern else f"at most {kind.most} characters"
    else:
        low, high = (f"{bound:g}" if plain is float else str(bound) for bound in (kind.low, kind.high))
        words = f"{low} … {high}"
    return kind.name, plain.__name__, words


def _message_table() -> str:
    rows = []
    for name, cls in messages.MESSAGES.items():
        fields = ", ".join(
            f"`{field}` {kind}" + ("" if required else " (may be left out)") for field, kind, required in _fields(cls)
        )
        rows.append((f"`{name}`", fields, "yes" if name in messages.WITH_BLOB else ""))
    return _rows(("Message", "Fields", "Blob frame"), rows)


def _field_table(cls: type) -> str:
    return _rows(
        ("Field", "Type", "May be left out"),
        [(f"`{field}`", kind, "" if required else "yes") for field, kind, required in _fields(cls)],
    )


def _event_table() -> str:
    rows = []
    for kind in messages.EVENT_KINDS:
        named = [f"`{name}` {_kind(hint)}" for name, hint in messages.EVENT_FIELDS[kind].items()]
        more = messages.EVENT_MAY_HAVE.get(kind, {}).items()
        fields = ", ".join(named + [f"`{name}` {_kind(hint)} (may be left out)" for name, hint in more])
        rows.append((f"`{kind}`", fields or "none", "yes" if kind in messages.FINAL_EVENT_KINDS else ""))
    return _rows(("Kind", "Fields", "Last"), rows)


def _error_table() -> str:
    rows = [
        (f"`{cls.code}`", f"`{cls.__name__}`", str(cls.exit_code), _first_sentence(cls))
        for cls in errors.all_error_classes()
    ]
    return _rows(("Code", "Class", "Exit status", "Meaning"), sorted(rows, key=lambda row: int(row[2])))


def _fields(cls: type) -> list[tuple[str, str, bool]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return [
        (
            field.name,
            _kind(hints[field.name]),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
    ]


def _kind(hint: typing.Any) -> str:
    if dataclasses.is_dataclass(hint):
        return hint.__name__
    if typing.get_origin(hint) is list:
        return f"list of {_kind(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "map"
    return "bool" if hint is bool else kinds.kind_of(hint).name


def _first_sentence(cls: type) -> str:
    return " ".join(inspect.getdoc(cls).split("\n\n")[0].split()).replace("``", "`")


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
