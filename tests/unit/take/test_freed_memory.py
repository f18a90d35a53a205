# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that was freed between what is still in use goes back to the system."""

import subprocess
import sys

import pytest

SAYS = """
from das_blender_addon.take.freed_memory import give_back_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

pieces = [bytearray(60_000) for _ in range(2000)]  # too small to be mapped alone
kept = pieces[::2]
del pieces
before = resident()
give_back_freed_memory()
print(before - resident())
"""
LEAST_BYTES = 30_000_000
"""Half of what was allocated is 60 MB; pages are given back whole."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_was_freed_between_what_is_in_use_goes_back():
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert int(done.stdout) > LEAST_BYTES


def test_nothing_happens_on_other_systems(monkeypatch):
    from das_blender_addon.take import freed_memory

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(freed_memory, "ctypes")
    freed_memory.give_back_freed_memory()
