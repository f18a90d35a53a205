# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that go on while a test looks at them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from das_blender_addon.client.take import Log
from das_blender_addon.take.run import run_take

LIMIT_S = 120.0
"""What takes longer goes on for ever."""


class Running:
    """`run_take` in a thread: ``outcome``, empty or what comes of it, ``events``, and ``stop``."""

    def __init__(self, asked, address: str, **options):
        self.stop, self.outcome, self.events = threading.Event(), [], []
        arguments = {"on_event": self.events.append, "should_stop": self.stop.is_set, **options}
        self._thread = threading.Thread(target=self._run, args=(asked, address), kwargs=arguments, daemon=True)
        self._thread.start()

    def _run(self, *arguments, **options):
        try:
            self.outcome.append(run_take(*arguments, **options))
        except BaseException as error:
            self.outcome.append(error)

    def wait(self):
        """The take, or the error that it ended with."""
        self._thread.join(LIMIT_S)
        assert self.outcome, "it goes on for ever"
        return self.outcome[0]

    def waits(self) -> bool:
        """Whether it has said that another process makes the take."""
        return any("Another process" in event.text for event in self.events if isinstance(event, Log))


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
