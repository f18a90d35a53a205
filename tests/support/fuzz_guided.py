# SPDX-License-Identifier: GPL-3.0-or-later
"""The fuzzer of `fuzz.py`, guided by coverage (atheris), with libFuzzer's flags; FOLDER is its corpus.

pip install '.[fuzz]' && python -m tests.support.fuzz_guided FOLDER -runs=10000000 -max_len=2048 -rss_limit_mb=1024
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["das_blender_addon"]):
    from tests.support import fuzz


def main() -> None:
    """Begin with `fuzz.seeds`, go on until libFuzzer has enough."""
    folder = next((Path(one) for one in sys.argv[1:] if not one.startswith("-")), None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(fuzz.seeds()):
            (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz.fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
