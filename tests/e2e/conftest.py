# SPDX-License-Identifier: GPL-3.0-or-later
"""Real server processes, real sockets.  One server serves all tests that leave it as they found it."""

import pytest

from tests.support.server import IMPATIENT, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server whose state outlives single tests."""
    with running_server(tmp_path_factory.mktemp("server") / "state") as server:
        yield server


@pytest.fixture(scope="session")
def own_server(tmp_path_factory):
    """A server to be killed, stopped and starved, and its workers too; each test leaves it running, with nothing to do.
    """
    with running_server(tmp_path_factory.mktemp("own") / "state", environment=IMPATIENT) as server:
        yield server
