# SPDX-License-Identifier: GPL-3.0-or-later
"""Any order of requests of several owners, replayed and reconnected, at a real front door: what it says is always what
a small model of it says."""

import collections
import contextlib
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import DasError, JobRejected, ProtocolError, StorageError
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.identity import TOKEN_BYTES
from tests.support.front_door import FrontDoor
from tests.support.jobs import job_inputs, job_spec

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

OWNERS, JOBS, REQUESTERS = 2, 2, 2
INPUTS, BLOBS = job_inputs(job_spec())
NAMES = [f"{number:032x}" for number in range(1, JOBS + 1)]
WHO = [f"{number:032x}" for number in range(90, 90 + REQUESTERS)]
PIECE = 700
reached: collections.Counter[str] = collections.Counter()
owners, jobs, requesters = st.integers(0, OWNERS - 1), st.integers(0, JOBS - 1), st.integers(0, REQUESTERS - 1)
blobs = st.sampled_from(sorted(BLOBS))


class Door(RuleBasedStateMachine):
    """The model: which owner has which blobs whole; of every job of an owner its newest run, whether that is over and
    who wants it; and who has left which run, for good."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="das-machine-"))
        self.stack = contextlib.ExitStack()
        self.tokens = [secrets.token_bytes(TOKEN_BYTES) for _ in range(OWNERS)]
        self.clients: list[DasClient] = []
        self.has: list[set[str]] = [set() for _ in range(OWNERS)]
        self.sent: dict[tuple[int, str], int] = {}
        self.wants: dict[tuple[int, int], dict[str, str]] = {}
        self.over: dict[tuple[int, int], bool] = {}
        self.runs: dict[tuple[int, int], str] = {}
        self.left: dict[tuple[int, int, str], str] = {}

    @initialize()
    def open(self):
        self.door = self.stack.enter_context(FrontDoor(self.folder))
        self.clients = [self._connect(number) for number in range(OWNERS)]

    def teardown(self):
        for client in self.clients:
            client.close()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _connect(self, owner: int) -> DasClient:
        return DasClient(self.door.address, timeout_s=60, token=self.tokens[owner])

    # ── What clients do ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(owner=owners)
    def reconnect(self, owner):
        self.clients[owner].close()
        self.clients[owner] = self._connect(owner)

    @rule(owner=owners, sha=blobs)
    def upload(self, owner, sha):
        assert self.clients[owner].upload(BLOBS[sha]) == sha
        self.has[owner].add(sha)
        self.sent.pop((owner, sha), None)

    @rule(owner=owners, sha=blobs, at=st.integers(0, 3), times=st.integers(1, 2))
    def send_a_piece(self, owner, sha, at, times):
        """In any order, and more than once."""
        blob, offset = BLOBS[sha], at * PIECE
        piece = blob[offset : offset + PIECE]
        for _ in range(times):
            number = self.clients[owner]._send(m.Put(0, sha, len(blob), min(offset, len(blob))), memoryview(piece))
            said = self.clients[owner]._expect(self.clients[owner]._answer((number,), 60.0, None)[0], m.Have)
            there = self.sent.get((owner, sha), 0)
            if sha in self.has[owner]:
                there = len(blob)
            elif offset <= there:
                there = max(there, offset + len(piece))
                self.sent[owner, sha] = there
            if there == len(blob):
                self.has[owner].add(sha)
                self.sent.pop((owner, sha), None)
            assert said.received_bytes == there

    @rule(owner=owners, sha=blobs)
    def send_damaged(self, owner, sha):
        if sha in self.has[owner] or self.sent.get((owner, sha)):
            return
        wrong = bytes(len(BLOBS[sha]))
        put = m.Put(0, sha, len(wrong), 0)
        number = self.clients[owner]._send(put, memoryview(wrong[: m.CHUNK_BYTES]))
        with pytest.raises(ProtocolError, match="damaged"):
            self.clients[owner]._expect(self.clients[owner]._answer((number,), 60.0, None)[0], m.Have)

    @rule(owner=owners, sha=blobs)
    def fetch(self, owner, sha):
        if sha in self.has[owner]:
            assert self.clients[owner].fetch(sha, len(BLOBS[sha])) == BLOBS[sha]
        else:
            with pytest.raises(StorageError, match="does not have"):
                self.clients[owner].fetch(sha, len(BLOBS[sha]))

    @rule(owner=owners, job=jobs, who=requesters, times=st.integers(1, 2), is_whole=st.booleans())
    def submit(self, owner, job, who, times, is_whole):
        for sha in BLOBS if is_whole else ():
            self.upload(owner, sha)
        for _ in range(times):  # the second time it is a duplicate
            self._submit(owner, job, WHO[who])

    def _submit(self, owner, job, who):
        client, key = self.clients[owner], (owner, job)
        client.requester = who
        answer = client.submit(NAMES[job], job_spec(seed=job), INPUTS)
        wants = self.wants.get(key, {})
        has_left = self.left.get((*key, who))
        is_anew = key in self.runs and self.over[key] and has_left is None
        if (key not in self.runs or is_anew) and self.has[owner] != set(BLOBS):
            reached["need"] += 1
            assert isinstance(answer, m.Need) and set(answer.shas) == set(BLOBS) - self.has[owner]
            return
        assert isinstance(answer, m.Accepted)
        if key not in self.runs or is_anew:
            reached["anew" if is_anew else "accepted"] += 1
            assert not answer.duplicate and answer.job not in self.runs.values()
            self.runs[key], self.over[key], self.wants[key] = answer.job, False, {who: "wants"}
        else:
            reached["duplicate"] += 1
            assert answer.duplicate and answer.job == (has_left or self.runs[key])
            if has_left is None:
                wants[who] = "wants"

    @rule(owner=owners, job=jobs)
    def submit_something_else_under_a_known_id(self, owner, job):
        if (owner, job) in self.runs:
            self.clients[owner].requester = ""
            with pytest.raises(JobRejected, match="another request"):
                self.clients[owner].submit(NAMES[job], job_spec(seed=job, prompt="another"), INPUTS)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), who=st.lists(requesters, min_size=1, max_size=3))
    def cancel(self, data, who):
        key = data.draw(st.sampled_from(sorted(self.runs)))
        client, wants = self.clients[key[0]], self.wants[key]
        for client.requester in (WHO[one] for one in who):
            reached["cancel"] += 1
            answer = client.cancel(self.runs[key])
            if not self.over[key] and wants.get(client.requester) == "wants":
                wants[client.requester] = "cancelled"
                self.left[*key, client.requester] = self.runs[key]
            self.over[key] = self.over[key] or "wants" not in wants.values()
            assert answer.state == ("CANCELLED" if self.over[key] else "QUEUED")

    @rule(owner=owners, job=jobs)
    def cancel_of_another(self, owner, job):
        """As if there were none."""
        theirs = self.runs.get((1 - owner, job), "f" * 32)
        if theirs not in NAMES:
            with pytest.raises(JobRejected):
                self.clients[owner].cancel(theirs)

    @precondition(lambda self: self.runs)
    @rule(owner=owners, data=st.data(), after=st.integers(0, 3))
    def attach(self, owner, data, after):
        key = data.draw(st.sampled_from(sorted(self.runs)))
        client, run = self._connect(owner), self.runs[key]
        with client:
            if key[0] != owner:
                reached["not theirs"] += 1
                with pytest.raises(JobRejected):
                    client.attach(run, after)
                return
            reached["events"] += 1
            last = client.attach(run, after).last_seq
            got = [client.next_event(60.0) for _ in range(after, last)]
            events = [(event.seq, event.kind) for event in got]
            assert [seq for seq, _ in events] == list(range(after + 1, last + 1))
            assert last == (2 if self.over[key] else 1)
            kinds = dict(events)
            assert kinds.get(1, "QUEUED") == "QUEUED" and kinds.get(2, "CANCELLED") == "CANCELLED"

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), is_theirs=st.sampled_from((True, True, False)))
    def acknowledge(self, data, is_theirs):
        over = [key for key in self.runs if self.over[key]]
        key = data.draw(st.sampled_from(sorted(over or self.runs)))
        owner = key[0] if is_theirs else 1 - key[0]
        client = self.clients[owner]
        client.requester = ""
        if key[0] == owner and self.over[key]:
            reached["acknowledged"] += 1
            client.ack(self.runs[key])
            self.wants[key][""] = "has"
        else:
            with pytest.raises(JobRejected):
                client.ack(self.runs[key])

    @rule(owner=owners, frames=st.lists(st.binary(max_size=60), min_size=1, max_size=3))
    def say_nonsense(self, owner, frames):
        with self._connect(owner) as client, contextlib.suppress(DasError):
            client._open_socket().send_multipart(frames)
            client.ping()

    # ── What is always so ───────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def everybody_sees_their_own(self):
        for owner, client in enumerate(self.clients):
            seen = {job["job"]: job["state"] for job in client.status().jobs}
            mine = {run: self.over[key] for key, run in self.runs.items() if key[0] == owner}
            assert {job for job, state in seen.items() if state != "CANCELLED"} == {
                run for run, over in mine.items() if not over
            }
            assert all(seen[run] == "CANCELLED" for run, over in mine.items() if over)


Door.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip


class TestDoor(Door.TestCase):
    """Also that it does not go round in a corner."""

    def runTest(self):
        super().runTest()
        words = ("need", "accepted", "duplicate", "anew", "cancel", "not theirs", "events", "acknowledged")
        assert all(reached[word] for word in words), reached
