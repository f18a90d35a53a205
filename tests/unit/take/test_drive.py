# SPDX-License-Identifier: GPL-3.0-or-later
"""What drives a recipe to its end is woken by the threads below it, and does not sleep beside them."""

import threading

from das_blender_addon.take import drive

LIMIT_S = 60.0
"""However busy the machine is; whoever is not woken waits an hour."""


def test_whoever_drives_is_woken_by_what_a_thread_says_and_by_its_end(monkeypatch):
    monkeypatch.setattr(drive, "TICK_S", 3600.0)
    heard, done = threading.Event(), []

    def work(_should_stop, say):
        say(drive.Status("test", "said", 0.5))
        assert heard.wait(LIMIT_S)  # it was heard while this thread goes on
        return 1

    def recipe():
        first = yield from drive.in_thread(work)
        second = yield from drive.in_thread(lambda _should_stop, _say: 2)
        return first + second

    def run():
        done.append(drive.finish(recipe(), on_status=lambda _status: heard.set()))

    driver = threading.Thread(target=run, daemon=True)
    driver.start()
    driver.join(LIMIT_S)
    assert done == [3]
