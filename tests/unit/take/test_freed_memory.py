# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that was freed is kept for the next frame, and goes back to the system, also from between what is in use."""

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
FAULTS = """
import resource, sys
from das_blender_addon.take.freed_memory import give_back_freed_memory, keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(20):
    arrays = [bytearray(1_000_000) for _ in range(8)]
    del arrays
    if _ == 1:
        before = faults()
print(faults() - before)
"""
AFTERWARDS = """
from das_blender_addon.take.freed_memory import KEPT_OTHERWISE, KeptMemory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

arrays = [None] * 10  # there from the start: nothing small comes to lie between what is freed

def left():
    for number in range(10):
        arrays[number] = bytearray(20_000_000)
    arrays[:] = [None] * 10
    return resident() - before

before = resident()
outer = KeptMemory()
with outer:
    with KeptMemory():
        pass
    print(left())
print(resident() - before)
print(left() - KEPT_OTHERWISE)
"""
FREED_BYTES, PAGES_BYTES = 200_000_000, 10_000_000
"""What is freed there, and what else a process takes meanwhile."""
LEAST_BYTES = 30_000_000
"""Half of what was allocated is 60 MB; pages are given back whole."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_was_freed_between_what_is_in_use_goes_back():
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert int(done.stdout) > LEAST_BYTES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_kept_for_the_next_frame():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "")
    )
    assert kept * 20 < given_back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, glibc's")
def test_freed_memory_is_kept_until_the_last_one_who_wants_it_is_done_and_never_after():
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, check=True)
    kept, afterwards, beyond = map(int, done.stdout.split())
    assert kept > FREED_BYTES - PAGES_BYTES
    assert afterwards < PAGES_BYTES and beyond < PAGES_BYTES


def test_nothing_happens_on_other_systems(monkeypatch):
    from das_blender_addon.take import freed_memory

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(freed_memory, "ctypes")
    with freed_memory.KeptMemory() as memory:
        memory.used_for(freed_memory.PIXELS_TO_TRIM)
