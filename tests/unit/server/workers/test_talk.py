# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's side of the talk: which order counts."""

import pytest

from das_blender_addon.errors import JobCancelled
from das_server.workers.ray_actor import KeptTalk
from das_server.workers.talk import Talk
from tests.support.jobs import job_id


class Words(Talk):
    """Keeps what is said."""

    def __init__(self, name):
        super().__init__(name)
        self.said = []

    def say(self, kind, **fields):
        self.said.append((kind, fields.get("attempt")))

    def note_checkpoint(self, order, path):
        raise NotImplementedError

    def end(self, problem, status):
        raise NotImplementedError


def order(job, attempt):
    return {"kind": "run", "job": job, "attempt": attempt}


@pytest.mark.parametrize("kind", [Words, KeptTalk])
def test_order_that_was_cancelled_before_it_began_is_not_taken_for_the_next_one_of_its_job(kind):
    """The worker loads a model, while one who wants the job cancels it and somebody else asks for it."""
    talk, job = kind("here"), job_id()
    talk.hear(order(job, 1))
    talk.hear({"kind": "cancel", "job": job})
    talk.hear(order(job, 2))
    taken = talk.next_order()
    assert taken["attempt"] == 2 and not talk.is_cancelled(job)
    other = job_id()
    talk.hear(order(other, 1))
    talk.finish(taken, [], {})
    assert talk.next_order()["job"] == other


def test_cancelled_order_is_told_once_and_passed_over():
    talk, job, other = Words("here"), job_id(), job_id()
    talk.hear(order(job, 1))
    talk.hear({"kind": "cancel", "job": job})
    talk.hear({"kind": "cancel", "job": job})
    talk.hear(order(other, 1))
    assert talk.next_order()["job"] == other
    assert [kind for kind, _ in talk.said if kind == "failed"] == ["failed"]
    talk.fail(order(other, 1), JobCancelled("It was cancelled."))
