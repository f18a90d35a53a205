# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is drained: who may ask for it, and when it is over."""

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol import messages
from das_server.door.draining import Drain
from tests.support.front_door import FrontDoor


def test_drain_is_over_when_nothing_runs_or_its_time_is():
    now = [100.0]
    drain = Drain(clock=lambda: now[0])
    assert not drain.is_over(0)
    drain.begin(60.0)
    assert drain.is_over(0) and not drain.is_over(2)
    drain.begin(1000.0)  # it only becomes shorter
    now[0] = 160.0
    assert drain.is_over(2)


def test_only_an_administrator_drains_the_server(tmp_path):
    with FrontDoor(tmp_path / "state") as door:
        with DasClient(door.address, token=bytes(range(16))) as other, pytest.raises(JobRejected, match="--admins"):
            other._request(messages.Drain(0), messages.Draining)
        with DasClient(door.address) as own:
            assert own._request(messages.Drain(0), messages.Draining) == messages.Draining(2, 0, 0)
