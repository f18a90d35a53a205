# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every test suite, each in the environment it is meant for, and close with one line `N passed, N failed`.

    .venv/bin/python scripts/run_tests.py [unit] [parity] [e2e] [blender] [binary] [-- PYTEST ARGUMENTS]

unit, parity and e2e run in .venv; the unit tests of the extension once more in every other Blender's environment
(another Python, another numpy); blender runs once per Blender version, each in a process of its own with an empty
Blender profile.  binary runs only when it is named: it needs the Blender program that ``BLENDER`` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("unit", "parity", "e2e", "blender")
ALL_SUITES = (*SUITES, "binary")
LIMIT_S = 1500
"""A suite that takes longer hangs: it is killed and counts as failed."""


@dataclass(frozen=True)
class Run:
    """One pytest process: what to call it, which interpreter, which folders."""

    name: str
    python: Path
    folders: tuple[str, ...]


def planned_runs(wanted: list[str]) -> list[Run]:
    """The pytest processes for ``wanted`` suites, cheapest first."""
    main = ROOT / ".venv" / "bin" / "python"
    listing = subprocess.run(
        [sys.executable, ROOT / "scripts" / "setup_environment.py", "list"], capture_output=True, text=True, check=True
    )
    blenders = [
        (version, Path(python)) for version, python in (line.split(" ", 1) for line in listing.stdout.splitlines())
    ]
    runs = []
    if "unit" in wanted:
        runs.append(Run("unit", main, ("tests/unit",)))
        extension_tests = tuple(
            f"tests/unit/{entry.name}"
            for entry in sorted((ROOT / "tests/unit").iterdir())
            if entry.name != "server"
            and (entry.is_dir() or entry.name.startswith("test_"))
            and entry.name != "__pycache__"
        )
        for version, python in blenders:
            if python != main:
                runs.append(Run(f"unit, extension, environment of Blender {version}", python, extension_tests))
    if "parity" in wanted:
        runs.append(Run("parity", main, ("tests/parity",)))
    if "e2e" in wanted:
        runs.append(Run("e2e", main, ("tests/e2e",)))
    if "blender" in wanted:
        runs += [Run(f"blender {version}", python, ("tests/blender",)) for version, python in blenders]
    if "binary" in wanted:
        runs.append(Run(f"binary {os.environ.get('BLENDER', '')}".strip(), main, ("tests/binary",)))
    return runs


def execute(run: Run, arguments: list[str]) -> tuple[int, int, int]:
    """Run one suite; returns its exit status and the numbers of passed and failed tests (errors count as failed)."""
    print(f"\n━━ {run.name}", flush=True)
    with tempfile.TemporaryDirectory(prefix="das-tests-") as scratch:
        report = Path(scratch) / "report.xml"
        environment = {
            **os.environ,
            "BLENDER_USER_RESOURCES": str(Path(scratch) / "blender"),
            "DAS_SERVER_PYTHON": str(ROOT / ".venv" / "bin" / "python"),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # tiny models: threads only wait for each other
        }
        command = [str(run.python), "-m", "pytest", "-q", f"--junitxml={report}", *arguments, *run.folders]
        try:
            status = subprocess.run(command, cwd=ROOT, env=environment, timeout=LIMIT_S).returncode
        except subprocess.TimeoutExpired:
            print(f"killed after {LIMIT_S} s", flush=True)
            return 1, 0, 1
        if not report.exists():
            return status or 1, 0, 1
        passed = failed = 0
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            failed += bad
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
        return status, passed, max(failed, 1 if status else 0)


def main() -> int:
    words = sys.argv[1:]
    arguments = words[words.index("--") + 1 :] if "--" in words else []
    wanted = [word for word in (words[: words.index("--")] if "--" in words else words)] or list(SUITES)
    unknown = [word for word in wanted if word not in ALL_SUITES]
    if unknown:
        sys.exit(f"run_tests: no suite {unknown[0]!r}; there are {', '.join(ALL_SUITES)}.")
    results = [(run, *execute(run, arguments)) for run in planned_runs(wanted)]
    print("\n━━ all suites")
    for run, status, passed, failed in results:
        print(f"{'ok  ' if status == 0 else 'FAIL'} {passed:5d} passed {failed:3d} failed   {run.name}")
    print(f"{sum(row[2] for row in results)} passed, {sum(row[3] for row in results)} failed")
    return 1 if any(row[1] for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
