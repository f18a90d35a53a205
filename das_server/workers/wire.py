# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server and its worker processes say to each other: msgpack maps over one local ZeroMQ socket, no pickle.

Worker → server (``kind``): "hello" {pid} · "heartbeat" {state, model, job, attempt, stage, step_s, since_progress_s,
memory_bytes} · "ready" {device, device_label, versions} · "problem" {message} · "progress" {job, attempt, fields} ·
"preview" {job, attempt, step, artefact} · "retry" {job, attempt, code, message} · "done" {job, attempt, artefacts,
report} · "failed" {job, attempt, code, message, field}.
Server → worker: "load" {model} · "run" {job, attempt, spec, inputs, weights} · "cancel" {job} · "heartbeat" {}.

A worker whose job ended in an error that nobody foresaw says so ("problem") and ends with `UNEXPECTED_STATUS`: another
process takes over.

Every message carries the secret that the worker got at birth, so that no other process of the machine can pose as one.
"""

from __future__ import annotations

import hmac
from typing import Any

import msgpack

from das_blender_addon.protocol.messages import Artefact
from das_server.workers.base import (
    WorkDone,
    WorkFailed,
    WorkLost,
    WorkNews,
    WorkPreviewed,
    WorkProgressed,
    WorkRetried,
)

TOKEN_VARIABLE = "DAS_WORKER_TOKEN"
HEARTBEAT_S = 1.0
UNEXPECTED_STATUS = 71
"""Exit status of a worker that does not trust itself any more."""
COMPANION_LOST_STATUS = 72
"""Exit status of a worker of several devices, one of whose other processes has ended."""


def pack(token: str, message: dict[str, Any]) -> list[bytes]:
    """The frames of a message."""
    return [token.encode(), msgpack.packb(message, use_bin_type=True)]


def unpack(token: str, frames: list[bytes]) -> dict[str, Any] | None:
    """The message in ``frames``; None for anything that is not one of ours."""
    if len(frames) != 2 or not hmac.compare_digest(frames[0], token.encode()):
        return None
    try:
        message = msgpack.unpackb(frames[1], raw=False)
    except (ValueError, msgpack.UnpackException):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None


def news_of(message: dict[str, Any]) -> WorkNews | None:
    """What a message says of a job; None for one that says nothing of one."""
    kind, about = message["kind"], (message.get("job"), message.get("attempt"))
    if kind == "progress":
        return WorkProgressed(*about, message["fields"])
    if kind == "preview":
        return WorkPreviewed(*about, message["step"], Artefact(**message["artefact"]))
    if kind == "retry":
        return WorkRetried(*about, message["code"], message["message"])
    if kind == "done":
        return WorkDone(*about, tuple(Artefact(**item) for item in message["artefacts"]), message["report"])
    if kind == "failed":
        return WorkFailed(*about, message["code"], message["message"], message["field"])
    if kind == "lost":
        return WorkLost(*about, message["reason"], message["begun"], message["by_others"])
    return None
