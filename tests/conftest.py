# SPDX-License-Identifier: GPL-3.0-or-later
"""No test sees the models, the settings or the cache of whoever runs it, nor leaves anything among them; a processor
that torch is told to take for an older one is that for all of torch.
"""

import os
import shutil
import tempfile
from pathlib import Path

_home = Path(tempfile.mkdtemp(prefix="das-home-"))

for _variable in [name for name in os.environ if name.startswith("DAS_") and name != "DAS_SERVER_PYTHON"]:
    del os.environ[_variable]
os.environ["DAS_SERVER_SPARES"] = "no"  # a test waits for none
for _variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
    os.environ[_variable] = str(_home / _variable.lower())

# With ATEN_CPU_CAPABILITY below a processor with AMX, torch would still let oneDNN use that, and its attention in
# bfloat16 ends with "pack_vnni2 is only supported when avx512 is supported": a machine that does not exist.
_onednn_level = {"default": "SSE41", "avx2": "AVX2"}.get(os.environ.get("ATEN_CPU_CAPABILITY", ""))
if _onednn_level:
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", _onednn_level)


def pytest_unconfigure():
    shutil.rmtree(_home, ignore_errors=True)
