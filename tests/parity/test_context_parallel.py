# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip over two processes (context parallelism, on the CPU) equals the published output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.tolerances import FLOAT32_ATOL

ROOT = Path(__file__).resolve().parents[2]
MODES = ("ulysses", "ulysses_anything")
LIMIT_S = 600


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Exit status, output and errors of two processes that make the clip together, once in every mode."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.parity.context_parallel_rank", (folder / "meeting").as_uri()]
    errors = [(folder / f"errors-{rank}").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), *MODES], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file, text=True
        )
        for rank, file in enumerate(errors)
    ]
    try:
        outputs = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for file in errors:
        file.seek(0)
    return [(*row, file.read()) for *row, file in zip((p.returncode for p in processes), outputs, errors, strict=True)]


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_equal_published(mode, ranks):
    """Each rank holds half of the rows; both end up with the whole, right output."""
    for status, output, errors in ranks:
        differences = dict(line.split() for line in output.splitlines())
        assert mode in differences, f"a rank ended with status {status}:\n{errors}"
        assert float(differences[mode]) <= FLOAT32_ATOL
        assert status == 0, errors
