# SPDX-License-Identifier: GPL-3.0-or-later
"""Several users and kinds of jobs at a real server: who is next, and what those who wait are told."""

from das_blender_addon.client.client import DasClient
from das_blender_addon.protocol.messages import INTERACTIVE
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.wire import follow, submit

ADA, BEN = bytes(range(16)), bytes(range(16, 32))


def started(events) -> float:
    return next(event.time_s for event in events if event.kind == "STARTED")


def ask(client, *, priority=0, **changes) -> str:
    spec = job_spec(**changes)
    return client.submit(job_id(), spec, job_inputs(spec)[0], priority=priority).job


def test_window_goes_first_and_users_take_turns(server):
    with DasClient(server.address, token=ADA, timeout_s=60) as ada, DasClient(server.address, token=BEN) as ben:
        for client in (ada, ben):
            follow(client, submit(client, seed=910))  # the inputs are there, and how long it takes is known
        first = ask(ada, num_inference_steps=50, seed=911)
        batch = [ask(ada, seed=912), ask(ada, seed=913)]
        bens = ask(ben, seed=914)
        window = ask(ada, seed=915, priority=INTERACTIVE)
        order = {job: started(follow(ada, job).events) for job in (first, window, *batch)}
        order[bens] = started(follow(ben, bens).events)
        assert sorted(order, key=order.get) == [first, window, bens, *batch]
        progress = [event for event in follow(ada, first).events if event.kind == "PROGRESS"]
        assert any("eta_s" in event.fields for event in progress)
