# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker imports at its start, and what it leaves for later."""

import subprocess
import sys

from tests.support.server import ROOT

IMPORTED = """
import importlib.util, sys
import torch.compiler
mark = torch.compiler.disable
from das_server.workers.machine import import_all, set_up_torch
import_all(compiler=False)
set_up_torch("cpu", 1, compiler=False)
assert "das_server.pipeline.cogvideox.pipeline" in sys.modules
assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
print(*[name for name in ("transformers", "peft", "scipy", "torch._dynamo") if name in sys.modules])
assert torch.compiler.disable is mark
assert all(importlib.util.find_spec(name) for name in ("transformers", "peft", "torch._dynamo"))
"""


def test_worker_starts_without_libraries_that_its_model_does_not_need():
    """They are found again afterwards, by the text encoder."""
    ended = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "\n"), ended.stdout + ended.stderr
