# SPDX-License-Identifier: GPL-3.0-or-later
"""A flood of refusals is no flood of lines."""

import logging

from das_server.door.seldom import Seldom


def test_lines_beyond_the_most_are_counted_and_told_when_there_are_some_again(caplog):
    now = [0.0]
    tell = Seldom(logging.getLogger("stranger"), most=2, every_s=10.0, clock=lambda: now[0])
    for number in range(5):
        tell(logging.WARNING, "line %s", number)
    assert caplog.messages == ["line 0", "line 1"]
    now[0] = 10.0
    tell(logging.ERROR, "line %s", 5, exc_info=ValueError("of it"))
    assert caplog.messages[2:] == ["3 more lines like those before were left out", "line 5"]
    assert caplog.records[-1].exc_info[0] is ValueError
    now[0] = 30.0
    tell(logging.INFO, "line 6")
    assert len(caplog.messages) == 4
