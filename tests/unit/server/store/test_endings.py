# SPDX-License-Identifier: GPL-3.0-or-later
"""How the last server ended, by real processes that end in every way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from das_server.store.endings import START, Ending, how_the_last_ended, oom_kills

ENDS = {
    "life.note_end()": Ending.CLEAN,
    "os.kill(os.getpid(), signal.SIGKILL)": Ending.KILLED,
    "os.kill(os.getpid(), signal.SIGSEGV)": Ending.DIED,
    "os.abort()": Ending.DIED,
    "life.note_end(MemoryError())": Ending.DIED,
}
pytestmark = pytest.mark.skipif(oom_kills() is None, reason="this system does not count what it kills")


def end(state, how: str) -> Ending:
    """A process begins a life on ``state`` and ends so; returns what the next one is told."""
    code = f"""if True:
        import os, resource, signal
        from pathlib import Path
        from das_server.store.endings import Life
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        life = Life(Path({str(state)!r}))
        {how}
    """
    root = Path(__file__).resolve().parents[4]
    subprocess.run([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL, check=False)
    return how_the_last_ended(state)


@pytest.mark.parametrize(("how", "ending"), ENDS.items())
def test_how_a_server_ended_is_known_to_the_next(tmp_path, how, ending):
    assert end(tmp_path, how) is ending


@pytest.mark.parametrize("change", [{"boot": "another"}, {"oom_kills": -1}])
def test_machine_that_started_anew_or_had_no_memory_left_is_no_kill_from_outside(tmp_path, change):
    end(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / START).write_text(json.dumps(json.loads((tmp_path / START).read_text()) | change))
    assert how_the_last_ended(tmp_path) is Ending.DIED


def test_folder_without_traces_is_that_of_a_server_that_died(tmp_path):
    assert how_the_last_ended(tmp_path) is Ending.DIED
