# SPDX-License-Identifier: GPL-3.0-or-later
"""Lifetimes go by the time that servers ran, whatever the machine's clock is set to."""

import pytest

from das_server.store.lived import LivedClock

DAY = 24 * 3600.0
STEP = 600.0


class Machine:
    """Its clocks, and the server that runs on it, which looks at them now and then."""

    def __init__(self, path):
        self.path, self.lived_s, self.unix_s = path, 0.0, 1e9
        self.start()

    def start(self):
        self.clock = LivedClock(self.path, clock=lambda: self.lived_s, wall=lambda: self.unix_s)

    def run(self, seconds: float) -> float:
        """→ what is old at the end."""
        for _ in range(int(seconds / STEP)):
            self.lived_s, self.unix_s = self.lived_s + STEP, self.unix_s + STEP
            before_s = self.clock.unix_time_before(DAY)
        return before_s


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "lived.json")


def test_what_was_not_used_for_its_time_is_old(machine):
    used_s = machine.unix_s
    assert machine.run(DAY - STEP) < used_s
    assert used_s <= machine.run(3 * STEP) < machine.unix_s - DAY + STEP


@pytest.mark.parametrize("jump", [3 * DAY, -3 * DAY])
def test_clock_that_is_set_makes_nothing_old(machine, jump):
    machine.run(2 * DAY)
    before, machine.unix_s = machine.unix_s, machine.unix_s + jump
    assert machine.run(STEP) < min(before, machine.unix_s - STEP)
    after = machine.unix_s
    assert machine.run(DAY - 2 * STEP) < min(before, after)
    if jump > 0:
        assert before <= machine.run(6 * STEP)


def test_times_a_server_is_off_make_nothing_old_and_it_goes_on_where_it_was(machine):
    machine.run(DAY / 2)
    used_s = machine.unix_s
    machine.run(DAY / 2)
    machine.clock.save()
    machine.unix_s += 7 * DAY
    machine.lived_s = 0.0
    machine.start()
    assert machine.run(DAY / 4) < used_s
    assert machine.run(DAY / 2) >= used_s


@pytest.mark.parametrize("damaged", ["[]", '{"lived_s": 1.0, "seen": [1]}', '{"lived_s": 1.0, "seen": 7}'])
def test_damaged_file_only_makes_lifetimes_longer(damaged, tmp_path):
    (tmp_path / "lived.json").write_text(damaged)
    assert LivedClock(tmp_path / "lived.json").unix_time_before(DAY) == float("-inf")


@pytest.mark.parametrize("damaged", ["Infinity", "NaN", "1e300", "9" * 400, '"soon"', "true", "[" * 100_000])
def test_damaged_count_of_the_time_that_was_makes_nothing_old(machine, damaged):
    machine.path.write_text(f'{{"lived_s": {damaged}}}')
    machine.start()
    assert machine.clock.now() == 0.0
    machine.path.write_text(f'{{"lived_s": 5.0, "seen": [[1.0, {damaged}]]}}')
    machine.start()
    assert machine.clock.now() == 0.0 and machine.clock.unix_time_before(DAY) == float("-inf")
