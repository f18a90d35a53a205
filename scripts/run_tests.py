# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every test suite, each in the environment it is meant for, and close with one line `N passed, N failed`.

    .venv/bin/python scripts/run_tests.py [-j N] [unit] [parity] [e2e] [blender] [binary] [-- PYTEST ARGUMENTS]

unit, parity and e2e run in .venv; parity once more as on an old processor, whose last bits are others; the unit tests
of the extension once more in every other Blender's environment (another Python, another numpy); blender runs once per
Blender version, each in a process of its own with an empty Blender profile, but what is marked ``any_blender`` (it is
about processes, files and sockets, or another test asks the same of every version) once, with that of .venv.  binary
runs only when it is named: it needs the Blender program that ``BLENDER`` names.

Three suites more than there are processor cores run at once, five at most and as many as the machine's memory has room
for (``-j`` says otherwise): they wait a lot.
Each keeps its output to itself until it has ended; one that runs alone writes as it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("unit", "parity", "e2e", "blender")
ALL_SUITES = (*SUITES, "binary")
LIMIT_S = 2700
"""A suite that takes longer hangs: it is killed and counts as failed."""
STANDS_STILL_S = 600
"""Of a test that takes longer the output tells where its threads are."""
MOST_AT_ONCE = 5
BYTECODE = "bytecode"
SUITE_BYTES = 2 * 2**30
"""Each suite has servers and workers of its own, about 1.5 GB in all."""
MODEL_SUITES = {"unit, training": ("training",), "unit, models": ("estimators", "models", "pipeline")}
"""Unit tests that calculate for most of their time, folders of ``tests/unit/server``: suites of their own."""
OF_NO_BLENDER = ("server", "test_house_rules.py", "test_run_tests.py")
"""Unit tests that are not about what runs inside Blender."""
OLD_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Prescott",
}
"""What makes torch and numpy calculate as on a processor without AVX."""


@dataclass(frozen=True)
class Run:
    """One pytest process: what to call it, which interpreter, which folders, what its environment has besides, and
    pytest's options.
    """

    name: str
    python: Path
    folders: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a run ended; errors count as failed tests."""

    status: int
    passed: int
    failed: int


@dataclass
class Running:
    """A run that has been started, and the folder of its report and its output; ``processor_s``: what it and the
    processes that it waited for have used, once it has ended.
    """

    run: Run
    scratch: Path
    process: subprocess.Popen
    began: float
    processor_s: float = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def kill(self) -> None:
        """End it with everything it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def blender_environments() -> list[tuple[str, Path]]:
    """Blender's versions and the interpreters of their environments."""
    listing = subprocess.run(
        [sys.executable, ROOT / "scripts" / "setup_environment.py", "list"], capture_output=True, text=True, check=True
    )
    return [(version, Path(python)) for version, python in (line.split(" ", 1) for line in listing.stdout.splitlines())]


def planned_runs(wanted: list[str]) -> list[Run]:
    """The pytest processes for ``wanted`` suites, the longest first, so that none is left alone at the end; e2e waits
    more than it calculates.
    """
    main = ROOT / ".venv" / "bin" / "python"
    blenders = blender_environments()
    model_suites = {
        name: tuple(f"tests/unit/server/{folder}" for folder in folders) for name, folders in MODEL_SUITES.items()
    }
    runs = []
    if "e2e" in wanted:
        runs.append(Run("e2e", main, ("tests/e2e",)))
    if "blender" in wanted:
        own = next((version for version, python in blenders if python == main), "")
        files = [f"tests/blender/{path.name}" for path in sorted((ROOT / "tests/blender").glob("test_*.py"))]
        for part in (0, 1):
            name, own_files = f"any Blender, with {own}, {part + 1} of 2", tuple(files[part::2])
            runs.append(Run(name, main, own_files, options=("-m", "any_blender")))
    if "unit" in wanted:
        runs += [Run(name, main, folders) for name, folders in model_suites.items()]
    if "blender" in wanted:
        for version, python in reversed(blenders):  # the newest takes longest
            runs.append(Run(f"blender {version}", python, ("tests/blender",), options=("-m", "not any_blender")))
    if "unit" in wanted:
        others = tuple(f"--ignore={folder}" for folders in model_suites.values() for folder in folders)
        runs.append(Run("unit", main, ("tests/unit",), options=others))
    if "parity" in wanted:
        runs.append(Run("parity", main, ("tests/parity",)))
        runs.append(Run("parity, as on an old processor", main, ("tests/parity",), OLD_PROCESSOR))
    if "unit" in wanted:
        extension_tests = tuple(
            f"tests/unit/{entry.name}"
            for entry in sorted((ROOT / "tests/unit").iterdir())
            if entry.name not in OF_NO_BLENDER
            and (entry.is_dir() or entry.name.startswith("test_"))
            and entry.name != "__pycache__"
        )
        for version, python in blenders:
            if python != main:
                runs.append(Run(f"unit, extension, environment of Blender {version}", python, extension_tests))
    if "binary" in wanted:
        runs.append(Run(f"binary {os.environ.get('BLENDER', '')}".strip(), main, ("tests/binary",)))
    return runs


def start(run: Run, arguments: list[str], scratch: Path, quiet: bool) -> Running:
    """Start one suite; ``quiet`` keeps its output in a file.

    Its processes, hundreds, share what Python has compiled, in a folder beside ``scratch``: an environment is set up
    without, and where nobody may write it (``PYTHONDONTWRITEBYTECODE``), each would compile Blender's scripts and torch
    anew, for as long as it takes to import them.
    """
    environment = {
        **os.environ,
        **run.environment,
        "BLENDER_USER_RESOURCES": str(scratch / "blender"),
        "DAS_SERVER_PYTHON": str(ROOT / ".venv" / "bin" / "python"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # tiny models: threads only wait for each other
        "PYTHONPYCACHEPREFIX": str(scratch.parent / BYTECODE),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    report = scratch / "report.xml"
    told = [f"--junitxml={report}", f"-ofaulthandler_timeout={STANDS_STILL_S:g}"]
    command = [str(run.python), "-m", "pytest", "-q", *told, *run.options, *arguments, *run.folders]
    with (scratch / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            start_new_session=True,
        )
    return Running(run, scratch, process, time.monotonic())


def counted(running: Running, status: int) -> Result:
    """What the report of an ended run says."""
    report = running.scratch / "report.xml"
    if not report.exists():
        return Result(status or 1, 0, 1)
    passed = failed = 0
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return Result(status, passed, max(failed, 1 if status else 0))


def processor_time_of_children() -> float:
    """Seconds that all processes have used that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ended(running: Running) -> Result | None:
    """The result of a run that has ended or takes too long, None while it runs."""
    before = processor_time_of_children()
    status = running.process.poll()
    if status is not None:
        running.processor_s = processor_time_of_children() - before
        return counted(running, status)
    if running.seconds < LIMIT_S:
        return None
    running.kill()
    with (running.scratch / "output").open("a") as output:
        output.write(f"\nkilled after {LIMIT_S} s\n")
    return Result(1, 0, 1)


def execute(runs: list[Run], arguments: list[str], at_once: int) -> Iterator[tuple[Run, Result]]:
    """Run all, ``at_once`` at a time, and give each as it ends, its output printed."""
    waiting, active = list(runs), []
    quiet = at_once > 1 and len(runs) > 1
    with tempfile.TemporaryDirectory(prefix="das-tests-", ignore_cleanup_errors=True) as scratch:
        try:
            while waiting or active:
                while waiting and len(active) < at_once:
                    folder = Path(scratch) / str(len(waiting))
                    folder.mkdir()
                    run = waiting.pop(0)
                    print(f"▶  {run.name}" if quiet else f"\n━━ {run.name}", flush=True)
                    active.append(start(run, arguments, folder, quiet))
                for running in list(active):
                    result = ended(running)
                    if result is None:
                        continue
                    active.remove(running)
                    if quiet:
                        times = f"{running.seconds:.0f} s, of which the processor {running.processor_s:.0f} s"
                        print(f"\n━━ {running.run.name} ({times})", flush=True)
                    print((running.scratch / "output").read_text(errors="replace"), end="", flush=True)
                    yield running.run, result
                time.sleep(0.2)
        finally:
            for running in active:
                running.kill()


def suites_at_once() -> int:
    """How many suites this machine's processor and memory have room for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores + 3, MOST_AT_ONCE, memory // SUITE_BYTES))


def main() -> int:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="run_tests", description=__doc__.partition("\n")[0])
    parser.add_argument("-j", dest="at_once", type=int, metavar="N", help="how many suites run at once")
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(ALL_SUITES)} (default: all but binary)")
    options = parser.parse_args(words[:cut])
    unknown = [word for word in options.suites if word not in ALL_SUITES]
    if unknown:
        sys.exit(f"run_tests: no suite {unknown[0]!r}; there are {', '.join(ALL_SUITES)}.")
    at_once = options.at_once or suites_at_once()
    runs = planned_runs(options.suites or list(SUITES))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so would all tests
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("run_tests: ended from outside"))  # ends the suites, too
    results = {run.name: result for run, result in execute(runs, words[cut + 1 :], at_once)}
    print("\n━━ all suites")
    for run in runs:
        result = results[run.name]
        verdict = "ok  " if result.status == 0 else "FAIL"
        print(f"{verdict} {result.passed:5d} passed {result.failed:3d} failed   {run.name}")
    passed, failed = (sum(getattr(result, name) for result in results.values()) for name in ("passed", "failed"))
    print(f"{passed} passed, {failed} failed")
    return 1 if any(result.status for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
