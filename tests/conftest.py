# SPDX-License-Identifier: GPL-3.0-or-later
"""No test sees the models, the settings or the cache of whoever runs it, nor leaves anything among them."""

import os
import shutil
import tempfile
from pathlib import Path

_home = Path(tempfile.mkdtemp(prefix="das-home-"))

for _variable in [name for name in os.environ if name.startswith("DAS_") and name != "DAS_SERVER_PYTHON"]:
    del os.environ[_variable]
for _variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
    os.environ[_variable] = str(_home / _variable.lower())


def pytest_unconfigure():
    shutil.rmtree(_home, ignore_errors=True)
