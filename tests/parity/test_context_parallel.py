# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip over two processes (context parallelism, on the CPU) equals the published output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mode", ["ulysses", "ulysses_anything"])
def test_two_processes_equal_published(mode, tmp_path):
    """Each rank holds half of the rows; both end up with the whole, right output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.parity.context_parallel_rank", mode, (tmp_path / "meeting").as_uri()]
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert [float(output.split()[-1]) <= 1e-5 for output in outputs] == [True, True]
