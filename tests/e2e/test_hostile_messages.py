# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message of the protocol with values that no honest client sends, to a real server: nobody else notices."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from das_blender_addon.client.client import DasClient
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.codec import decode, encode
from tests.support.jobs import job_inputs, job_spec
from tests.support.messages import EXAMPLES
from tests.support.wire import submit

DEEP = 400
REPLY_MS = 60_000


def nested(wrap) -> Any:
    value: Any = 0
    for _ in range(DEEP):
        value = wrap(value)
    return value


HOSTILE = {
    "2**63": 2**63,
    "2**64-1": 2**64 - 1,
    "-1": -1,
    "-2**63": -(2**63),
    "true": True,
    "half": 0.5,
    "huge float": 1e308,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "nil": None,
    "huge text": "x" * 500_000,
    "text with zero": "\0/../\n",
    "bytes": b"\xff" * 16,
    "deep maps": nested(lambda inner: {"a": inner}),
    "deep lists": nested(lambda inner: [inner]),
    "wide list": [0] * 60_000,
    "wide map": {str(number): number for number in range(4_000)},
    "extension": msgpack.ExtType(5, b"ext"),
}


def places(plain: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in ``plain``, outer ones first."""
    if path:
        yield path
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inside:
        yield from places(value, (*path, key))


def with_value(plain: Any, path: tuple, value: Any) -> Any:
    """``plain`` with another value at ``path``."""
    if not path:
        return value
    changed = dict(plain) if isinstance(plain, dict) else list(plain)
    changed[path[0]] = with_value(plain[path[0]], path[1:], value)
    return changed


def hostile_headers(plain: dict[str, Any]) -> Iterator[bytes]:
    for path in places(plain):
        for value in HOSTILE.values():
            yield msgpack.packb(with_value(plain, path, value))
        yield msgpack.packb({key: value for key, value in plain.items() if key != path[0]})


@pytest.fixture(scope="module")
def known(own_server) -> tuple[str, str]:
    """A job and a blob that the server has, so that a hostile request goes all the way."""
    with DasClient(own_server.address, timeout_s=60) as client:
        return submit(client), job_inputs(job_spec())[0][0].sha


def example_of(name: str, job: str, sha: str) -> dict[str, Any]:
    """A well-formed message of this type about a job and a blob that exist."""
    plain = msgpack.unpackb(encode(next(one for one in EXAMPLES if type(one) is m.MESSAGES[name]))[0])
    return {key: {"job": job, "sha": sha}.get(key, value) for key, value in plain.items()}


@pytest.mark.parametrize("name", m.MESSAGES)
def test_honest_client_is_served_after_hostile_messages(own_server, known, name):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(own_server.address)
    count = 0
    try:
        for header in hostile_headers(example_of(name, *known)):
            dealer.send_multipart([header, b"piece"] if name in m.WITH_BLOB else [header])
            count += 1
            while True:  # events of a job that it follows come in between
                assert dealer.poll(REPLY_MS), f"no reply to {header[:200]!r}; the log ends:\n{own_server.log[-3000:]}"
                if not isinstance(decode(dealer.recv_multipart())[0], m.Event):
                    break
    finally:
        dealer.close()
        context.term()
    assert count > len(HOSTILE)
    assert_serves(own_server)


def assert_serves(server) -> None:
    """An honest client is greeted and has a job accepted, after the loop has gone round once more."""
    time.sleep(0.3)
    with DasClient(server.address, timeout_s=60) as client:
        assert isinstance(client.hello(), m.Welcome)
        client.cancel(submit(client, seed=time.time_ns() % 10**9))
    assert server.is_running()
    assert "failed unexpectedly" not in server.log
