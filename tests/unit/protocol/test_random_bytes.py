# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever arrives in a message's frames: it is a message, or it is refused in a sentence."""

import math
import random

import msgpack

from das_blender_addon.errors import ProtocolError
from das_blender_addon.protocol import codec
from das_blender_addon.protocol import messages as m
from tests.support.messages import EXAMPLES, JOB, SHA

GARBAGE_ROUNDS = 4000


def decodes_or_refuses(frames):
    """Whether ``frames`` decode; anything but a message or a `ProtocolError` fails the test."""
    try:
        message, _ = codec.decode(frames)
    except ProtocolError as error:
        assert str(error)
        codec.request_of(frames)
        return False
    assert type(message) in m.MESSAGES.values()
    assert codec.decode(codec.encode(message, frames[1] if len(frames) == 2 else None))[0] == message
    return True


def random_value(rng, depth=0):
    kinds = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice([0, 1, -1, 7, 1 << 31, (1 << 64) - 1, -(1 << 63)]),
        lambda: rng.choice([0.0, -1.5, math.nan, math.inf, 1e308]),
        lambda: rng.choice(["", "x", SHA, JOB, "QUEUED", "DONE", "☀" * 20]),
        lambda: rng.randbytes(rng.randrange(40)),
        lambda: msgpack.ExtType(rng.randrange(128), b"ext"),
    ]
    if depth < 4:
        kinds += [
            lambda: [random_value(rng, depth + 1) for _ in range(rng.randrange(4))],
            lambda: {rng.choice(["a", "role", "sha", "fields"]): random_value(rng, depth + 1) for _ in range(3)},
        ]
    return rng.choice(kinds)()


def test_random_bytes_never_raise_anything_else():
    rng = random.Random(1)
    for _ in range(GARBAGE_ROUNDS):
        decodes_or_refuses([rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(4))])


def test_damaged_messages_never_raise_anything_else():
    rng = random.Random(2)
    survived = 0
    for round_number in range(GARBAGE_ROUNDS):
        frames = [bytearray(frame) for frame in codec.encode(EXAMPLES[round_number % len(EXAMPLES)])]
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(frames[0]))
            action = rng.randrange(3)
            if action == 0:
                frames[0][at] ^= 1 << rng.randrange(8)
            elif action == 1:
                frames[0][at : at + 1] = rng.randbytes(rng.randrange(4))
            else:
                del frames[0][at + 1 :]
        survived += decodes_or_refuses(frames)
    assert 0 < survived < GARBAGE_ROUNDS


def test_messages_with_random_values_never_raise_anything_else():
    rng = random.Random(3)
    survived = 0
    for round_number in range(GARBAGE_ROUNDS):
        example = EXAMPLES[round_number % len(EXAMPLES)]
        plain = msgpack.unpackb(codec.encode(example)[0])
        plain[rng.choice(list(plain))] = random_value(rng)
        frames = [msgpack.packb(plain)] + [b""] * (type(example) in (m.Put, m.Chunk))
        survived += decodes_or_refuses(frames)
    assert 0 < survived < GARBAGE_ROUNDS
