# SPDX-License-Identifier: GPL-3.0-or-later
"""What the client's tests share."""

import pytest

from tests.support.peer import Peer


@pytest.fixture
def peer():
    """A server in a thread that answers as it is told to."""
    with Peer() as peer:
        yield peer
