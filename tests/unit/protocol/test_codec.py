# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec: every message there and back, and nothing but `ProtocolError` for anything else."""

import copy
import dataclasses
import math
import typing

import msgpack
import numpy as np
import pytest

from das_blender_addon.errors import MessageTooLarge, ProtocolError
from das_blender_addon.protocol import codec, kinds
from das_blender_addon.protocol import messages as m
from tests.support.messages import ARTEFACT, EVENT_FIELDS, EXAMPLES, INPUT, JOB, SHA, SPEC


def pack(**fields):
    return [msgpack.packb(fields)]


def test_examples_cover_every_message_and_every_event_kind():
    assert {type(example) for example in EXAMPLES} == set(m.MESSAGES.values())
    assert set(EVENT_FIELDS) == set(m.EVENT_KINDS) == set(m.EVENT_FIELDS)
    assert set(m.FINAL_EVENT_KINDS) < set(m.EVENT_KINDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_comes_back_equal(message):
    wants_blob = type(message) in (m.Put, m.Chunk)
    frames = codec.encode(message, b"\x00\xffpiece" if wants_blob else None)
    again, blob = codec.decode([bytes(frame) for frame in frames])
    assert again == message and type(again) is type(message)
    assert (bytes(blob) == b"\x00\xffpiece") if wants_blob else (blob is None and len(frames) == 1)


def test_message_is_read_from_memoryviews():
    again, blob = codec.decode([memoryview(frame) for frame in codec.encode(m.Put(1, SHA, 4, 0), b"four")])
    assert again.size_bytes == 4 and bytes(blob) == b"four"


def test_put_without_blob_sends_an_empty_frame():
    frames = codec.encode(m.Put(1, SHA, 4, 0))
    assert len(frames) == 2 and codec.decode(frames)[1].nbytes == 0


@pytest.mark.parametrize("value", [SPEC, INPUT, ARTEFACT], ids=lambda value: type(value).__name__)
def test_plain_form_comes_back_equal(value):
    assert codec.from_plain(type(value), msgpack.unpackb(msgpack.packb(codec.to_plain(value)))) == value


def test_missing_field_with_a_default_takes_it():
    assert codec.decode(pack(type="FAILURE", request=1, code="job", message="x"))[0] == m.Failure(1, "job", "x", "")


def test_extra_field_is_ignored():
    assert codec.decode(pack(type="PING", request=3, mood="good"))[0] == m.Ping(3)


def test_unknown_event_kind_passes():
    event = m.Event(JOB, 1, "PAUSED", 0.0, {"why": "lunch"})
    assert codec.decode(codec.encode(event))[0] == event


def test_whole_number_is_read_as_a_float_where_a_float_is_due():
    plain = codec.to_plain(SPEC) | {"guidance_scale": 6}
    assert type(codec.from_plain(m.JobSpec, plain).guidance_scale) is float


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "7"}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": np.int64(3)}, "seed must be a whole number, not a int64"),
        ({"seed": 1 << 64}, "it must lie between"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"guidance_scale": "6"}, "must be a number"),
        ({"guidance_scale": False}, "must be a number"),
        ({"prompt": 5}, "prompt must be a text"),
        ({"prompt": b"raw"}, "prompt must be a text"),
        ({"prompt": "\ud800"}, "valid Unicode"),
        ({"options": []}, "options must be a map"),
        ({"options": {"a": math.nan}}, "options.a is nan"),
        ({"options": {"a": {1: 2}}}, "keys must be text"),
        ({"options": {"a": b"bytes"}}, "options.a holds a bytes"),
        ({"options": {"a": [object()]}}, "options.a holds a object"),
    ],
    ids=str,
)
def test_spec_with_a_value_that_does_not_travel_is_refused_before_it_is_sent(changes, words):
    spec = dataclasses.replace(SPEC, **changes)
    with pytest.raises(ProtocolError, match=words):
        codec.encode(m.Submit(1, JOB, spec, []))


def test_nested_options_are_refused_when_too_deep():
    deep = leaf = {}
    for _ in range(m.MAX_NESTING + 2):
        leaf["a"] = leaf = {}
    with pytest.raises(ProtocolError, match="nests deeper than"):
        codec.encode(m.Submit(1, JOB, dataclasses.replace(SPEC, options=deep), []))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (m.Put(1, "../../etc/passwd", 1, 0), "SHA-256"),
        (m.Put(1, SHA.upper(), 1, 0), "SHA-256"),
        (m.Put(1, SHA, -1, 0), "must lie between 0"),
        (m.Need(1, JOB, [SHA, "x"]), r"shas\[1\]"),
        (m.Ack(1, "job-1"), "32 lower-case hex"),
        (m.Ping(-1), "must lie between 0"),
        (m.Event(JOB, 1, "QUEUED", 0.0, {}), "lacks its field 'position'"),
        (m.Event(JOB, 1, "DONE", 0.0, {"artefacts": [{}], "report": {}}), "lacks its field 'role'"),
        (m.Submit(1, JOB, {"task": "x"}, []), "must be a JobSpec"),
        (m.Submit(1, JOB, SPEC, [ARTEFACT]), r"inputs\[0\] must be a JobInput"),
        (m.Hello(1, 1, "x"), "versions must be a list"),
        (SPEC, "JobSpec is not a message"),
        ("PING", "str is not a message"),
    ],
    ids=str,
)
def test_wrong_message_is_refused_before_it_is_sent(message, words):
    with pytest.raises(ProtocolError, match=words):
        codec.encode(message)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "has 0"),
        ([b"", b"", b""], "has 3"),
        ([b""], "0 bytes are not a message"),
        ([b"GET / HTTP/1.1\r\n"], "not a message"),
        ([b"\xc1"], "not a message"),
        ([msgpack.packb(1)], "must be a map, not 1"),
        ([msgpack.packb([])], "must be a map, not a list"),
        ([msgpack.packb({1: 2})], "not a message"),
        ([msgpack.packb({}) + b"x"], "not a message"),
        ([msgpack.packb({"type": "PING", "request": 1})[:-1]], "not a message"),
        (pack(), "type None is unknown"),
        (pack(type=["PING"]), "type a list is unknown"),
        (pack(type="PUNG", request=1), "type 'PUNG' is unknown"),
        (pack(type="PING"), "PING lacks its field 'request'"),
        (pack(type="PING", request=None), "PING.request must be a whole number, not None"),
        (pack(type="PING", request=1) + [b""], "PING came with a blob"),
        (pack(type="PUT", request=1, sha=SHA, size_bytes=1, offset=0), "without its blob"),
        (pack(type="ATTACH", request=1, job="../x", after=0), "32 lower-case hex"),
        (pack(type="PING", request=1, extra=msgpack.Timestamp(1)), "not a message"),
        (pack(type="PING", request=1, extra=b"bytes"), "not a message"),
        ([b"\xdd\xff\xff\xff\xff"], "not a message"),
        ([b"\xdf\xff\xff\xff\xff"], "not a message"),
        ([b"\x91" * 100_000], "not a message"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bytes_that_are_no_message_are_refused_in_a_sentence(frames, words):
    with pytest.raises(ProtocolError, match=words) as caught:
        codec.decode(frames)
    assert caught.value.message.endswith(".") and len(caught.value.message) < 300


def test_header_and_blob_over_the_limit_are_refused_both_ways():
    long = dataclasses.replace(SPEC, options={"texts": ["x" * kinds.MAX_TEXT] * 11})
    with pytest.raises(MessageTooLarge, match="header"):
        codec.encode(m.Submit(1, JOB, long, []))
    with pytest.raises(MessageTooLarge, match="header"):
        codec.decode([bytes(m.MAX_HEADER_BYTES + 1)])
    header = codec.encode(m.Put(1, SHA, 1, 0))[0]
    for call in (
        lambda: codec.encode(m.Put(1, SHA, 1, 0), bytes(m.CHUNK_BYTES + 1)),
        lambda: codec.decode([header, bytes(m.CHUNK_BYTES + 1)]),
    ):
        with pytest.raises(MessageTooLarge, match="send smaller pieces"):
            call()
    assert codec.decode([header, bytes(m.CHUNK_BYTES)])[1].nbytes == m.CHUNK_BYTES


def lists_of(count, values):
    """``count`` lists in a map, with so many ``values`` in all of them, and in the map."""
    each, rest = divmod(values - count, count)
    return {f"{i:04}": [1.5] * (each + (i < rest)) for i in range(count)}


def test_request_holds_less_than_an_answer_does():
    plain = codec.to_plain(m.Submit(1, JOB, dataclasses.replace(SPEC, options={}), [])) | {"type": "SUBMIT"}
    maps = [plain, plain["spec"]]
    parts = kinds.MAX_ASKED_PARTS - len(maps) - 2  # the options themselves and the empty list of inputs
    values = kinds.MAX_ASKED_VALUES - sum(map(len, maps))
    for more in ((0, 0), (1, 0), (0, 1)):
        spec = dataclasses.replace(SPEC, options=lists_of(parts + more[0], values + more[1]))
        message, frame = m.Submit(1, JOB, spec, []), [msgpack.packb(plain | {"spec": codec.to_plain(spec)})]
        if more == (0, 0):
            assert codec.decode(frame, is_request=True)[0] == codec.decode(codec.encode(message))[0] == message
            continue
        with pytest.raises(ProtocolError, match="more than 2200 lists and maps, or 8192 values"):
            codec.decode(frame, is_request=True)
        with pytest.raises(ProtocolError, match="more than 2200 lists and maps, or 8192 values"):
            codec.encode(message)
    answer = m.JobList(1, [{"values": [1.5] * 4000}] * 16)
    assert codec.decode(codec.encode(answer))[0] == answer


def test_request_number_of_a_refused_message_is_found():
    assert codec.request_of(pack(type="PUNG", request=41)) == 41
    assert codec.request_of(pack(type="PUNG", request=-41)) == 0
    assert codec.request_of([b"garbage"]) == codec.request_of([]) == codec.request_of(pack(request="x")) == 0


# ── Bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def hints_in(hint):
    """``hint`` and every type inside it, down to the kinds."""
    yield hint
    for inner in typing.get_args(hint) if typing.get_origin(hint) is list else ():
        yield from hints_in(inner)
    if dataclasses.is_dataclass(hint):
        for inner in typing.get_type_hints(hint, include_extras=True).values():
            yield from hints_in(inner)


def test_every_value_on_the_wire_has_bounds():
    fields = [hint for cls in m.MESSAGES.values() for hint in hints_in(cls)]
    for kinds_of_events in (m.EVENT_FIELDS, m.EVENT_MAY_HAVE):
        fields += [inner for hints in kinds_of_events.values() for hint in hints.values() for inner in hints_in(hint)]
    assert not {hint for hint in fields if hint in (int, float, str)}
    used = {hint for hint in fields if kinds.kind_of(hint)}
    assert used == set(kinds.ALL)


def just_outside(kind, plain):
    if plain is str:
        return ["x" * (kind.most + 1)]
    if plain is int:
        return [kind.low - 1, kind.high + 1]
    return [kind.low - 1.0, math.nextafter(kind.high, math.inf)]


def just_inside(kind, plain):
    if plain is str:
        return [] if kind.pattern else ["x" * kind.most, ""]
    return [plain(kind.low), plain(kind.high)]


def kinds_in(value, hint, path=()):
    """(path, kind, plain type) of every value in the plain form of a message."""
    if dataclasses.is_dataclass(hint):
        for name, inner in typing.get_type_hints(hint, include_extras=True).items():
            yield from kinds_in(value[name], inner, (*path, name))
    elif typing.get_origin(hint) is list:
        for index, item in enumerate(value):
            yield from kinds_in(item, typing.get_args(hint)[0], (*path, index))
    elif kinds.kind_of(hint):
        yield path, kinds.kind_of(hint), hint.__origin__


def replaced(plain, path, value):
    plain = copy.deepcopy(plain)
    inside = plain
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return plain


def built(hint, value):
    """A message from its plain form without any check."""
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        return hint(**{name: built(inner, value[name]) for name, inner in hints.items()})
    if typing.get_origin(hint) is list:
        return [built(typing.get_args(hint)[0], item) for item in value]
    return value


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_values_outside_their_bounds_are_refused_on_both_sides(message):
    cls = type(message)
    name = next(name for name, one in m.MESSAGES.items() if one is cls)
    plain, blob = codec.to_plain(message), [b""] * (name in m.WITH_BLOB)
    for path, kind, base in kinds_in(plain, cls):
        for value in just_outside(kind, base):
            changed = replaced(plain, path, value)
            with pytest.raises(ProtocolError, match=f"{path[-1]}|shas|versions|shape") as written:
                codec.encode(built(cls, changed))
            if -(1 << 63) <= value < 1 << 64 if base is int else True:
                with pytest.raises(ProtocolError) as read:
                    codec.decode([msgpack.packb({"type": name, **changed}), *blob])
                assert read.value.message == written.value.message
        for value in just_inside(kind, base):
            changed = replaced(plain, path, value)
            if path[-1] == "kind":
                continue  # another kind of event has other fields
            assert codec.decode([msgpack.packb({"type": name, **changed}), *blob])[0] == built(cls, changed)


def test_refusal_names_field_value_and_bounds():
    with pytest.raises(ProtocolError) as caught:
        codec.decode(pack(type="ATTACH", request=1, job=JOB, after=1 << 63))
    assert caught.value.field == "ATTACH.after"
    assert caught.value.message == (
        "ATTACH.after is 9223372036854775808; it must lie between 0 and 9223372036854775807."
    )
    with pytest.raises(ProtocolError, match=r"uptime_s is -1\.0; it must lie between 0 and 1e\+12\."):
        codec.encode(m.StatusReport(1, "server", -1.0, [], []))


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"n": 1 << 63}, "report.n is 9223372036854775808; it must lie between"),
        ({"n": [0] * (kinds.MAX_ITEMS + 1)}, "report.n has 4097 items"),
        ({str(n): n for n in range(kinds.MAX_ITEMS + 1)}, "report has 4097 keys"),
        ({"n": "x" * (kinds.MAX_TEXT + 1)}, "report.n has 100001 characters"),
        ({"x" * (kinds.MAX_NAME + 1): 1}, "a key of 4097 characters"),
        ({"n": math.inf}, "report.n is inf"),
        ({"n": [[[]] * 4000] * 3}, "more than 10000 lists and maps"),
        ({"n": [[{}] * 4000] * 3}, "more than 10000 lists and maps"),
        ({"n": [[0] * 4000] * 17}, "or 65536 values"),
        ({"n": [{str(n): n for n in range(4000)}] * 17}, "or 65536 values"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_free_values_outside_the_bounds_are_refused_on_both_sides(report, words):
    fields = {"artefacts": [], "report": report}
    with pytest.raises(ProtocolError, match=words):
        codec.encode(m.Event(JOB, 1, "DONE", 0.0, fields))
    with pytest.raises(ProtocolError):
        codec.decode(pack(type="EVENT", job=JOB, seq=1, kind="DONE", time_s=0.0, fields=fields))


def test_long_words_of_others_are_cut_to_what_travels():
    assert kinds.fitting("short") == "short"
    assert len(kinds.fitting("x" * (kinds.MAX_TEXT + 5))) == kinds.MAX_TEXT
    assert kinds.fitting("x" * 5000, kinds.Name).endswith("…")


def test_large_header_that_was_refused_is_not_read_once_more():
    small, large = (pack(type="NONE", request=7, padding=["x" * size] * 2) for size in (10, 40_000))
    assert [codec.request_of(frames) for frames in (small, large, [], [b""])] == [7, 0, 0, 0]
