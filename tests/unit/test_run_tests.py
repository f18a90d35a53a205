# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that runs the suites: several at once, each with its output in one piece, nothing lost of what fails."""

import dataclasses
import importlib.util
import sys
import tempfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_tests():
    spec = importlib.util.spec_from_file_location("run_tests", ROOT / "scripts" / "run_tests.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def suite(run_tests, tmp_path):
    """Makes a suite of one file out of its text."""

    def make(name, text, **environment):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test_it.py").write_text(text)
        return run_tests.Run(name, Path(sys.executable), (str(folder),), environment)

    return make


ARGUMENTS = ["-p", "no:cacheprovider", "-s"]
MIXED = """
import pytest
def test_passes(): pass
def test_fails(): assert False, "seen in the output"
@pytest.fixture
def broken(): raise RuntimeError
def test_breaks(broken): pass
@pytest.mark.skip
def test_is_skipped(): pass
"""


def counts(result):
    return result.status != 0, result.passed, result.failed


def test_failures_and_errors_count_as_failed_and_skipped_as_nothing(run_tests, suite, capfd):
    [(run, result)] = run_tests.execute([suite("mixed", MIXED)], ARGUMENTS, at_once=2)
    assert run.name == "mixed" and counts(result) == (True, 1, 2)
    assert "seen in the output" in capfd.readouterr().out


def test_suite_that_dies_without_a_report_counts_as_failed(run_tests, suite):
    runs = [suite("dying", "import os\ndef test_dies(): os._exit(0)"), suite("good", "def test_passes(): pass")]
    results = {run.name: counts(result) for run, result in run_tests.execute(runs, ARGUMENTS, at_once=2)}
    assert results == {"dying": (True, 0, 1), "good": (False, 1, 0)}


def test_suite_that_hangs_is_killed_and_counts_as_failed_and_says_where(run_tests, suite, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(run_tests, "STANDS_STILL_S", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    over = threading.Event()

    def end_its_time():
        """When it has said where it stands still: nobody knows how long a busy machine takes to begin a suite."""
        while not over.wait(0.1):
            if any("in test_hangs" in path.read_text() for path in tmp_path.glob("das-tests-*/*/output")):
                run_tests.LIMIT_S = 1
                return

    monkeypatch.setattr(run_tests, "LIMIT_S", run_tests.LIMIT_S)
    watching = threading.Thread(target=end_its_time, daemon=True)
    hanging = suite("hanging", "import time\ndef test_hangs(): time.sleep(300)")
    results = []
    try:
        for run, result in run_tests.execute([hanging, suite("good", "def test_passes(): pass")], ARGUMENTS, at_once=2):
            results.append((run.name, *counts(result)))
            if run.name == "good":
                watching.start()
    finally:
        over.set()
    assert results == [("good", False, 1, 0), ("hanging", True, 0, 1)]
    output = capfd.readouterr().out
    assert "killed after 1 s" in output and "in test_hangs" in output


def test_what_does_not_depend_on_blender_runs_with_one_of_them(run_tests):
    runs = run_tests.planned_runs(["blender"])
    others = len(run_tests.blender_environments())
    assert len(runs) == others + 2 and len({run.python for run in runs}) == others
    assert [run.options[1] for run in runs] == ["any_blender"] * 2 + ["not any_blender"] * others
    assert {run.python for run in runs[:2]} == {run_tests.ROOT / ".venv" / "bin" / "python"}
    files = sorted(f"tests/blender/{path.name}" for path in (ROOT / "tests" / "blender").glob("test_*.py"))
    assert sorted(runs[0].folders + runs[1].folders) == files


def test_every_unit_test_is_in_one_suite_of_its_environment(run_tests):
    main = run_tests.ROOT / ".venv" / "bin" / "python"
    *models, unit = [run for run in run_tests.planned_runs(["unit"]) if run.python == main]
    folders = [folder for run in models for folder in run.folders]
    assert unit.folders == ("tests/unit",) and len(set(folders)) == len(folders) >= len(models) == 2
    assert unit.options == tuple(f"--ignore={folder}" for folder in folders)
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_options_of_a_suite_are_those_of_its_pytest(run_tests, suite):
    run = dataclasses.replace(suite("mixed", MIXED), options=("-k", "passes"))
    [(_, result)] = run_tests.execute([run], ARGUMENTS, at_once=2)
    assert counts(result) == (False, 1, 0)


def test_suites_share_what_python_has_compiled_beside_no_source(run_tests, suite, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    module = tmp_path / "compiled_once.py"
    module.write_text("VALUE = 1")
    text = f"""
import os, pathlib, subprocess, sys
SEEN = "import compiled_once as it; print(it.__cached__, __import__('os').stat(it.__cached__).st_mtime_ns)"
def test_imports():
    environment = {{**os.environ, "PYTHONPATH": {str(tmp_path)!r}}}
    said = subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, text=True, check=True)
    pathlib.Path(os.environ["SAID"]).write_text(said.stdout)
"""
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]
    runs = [suite(file.stem, text, SAID=str(file)) for file in said]
    assert [counts(result) for _, result in run_tests.execute(runs, ARGUMENTS, at_once=1)] == [(False, 1, 0)] * 2
    assert said[0].read_text() == said[1].read_text() and not list(tmp_path.rglob("__pycache__"))


def test_suites_at_once_do_not_mix_their_output(run_tests, suite, tmp_path, capfd):
    """Each waits for the other's mark, so both run at the same time."""
    text = """
import os, pathlib, time
def test_meets_the_other():
    here, other = (pathlib.Path(os.environ[name]) for name in ("HERE", "OTHER"))
    print("begin", here.name)
    here.touch()
    while not other.exists():
        time.sleep(0.05)
    print("end", here.name)
"""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    runs = [suite("first", text, HERE=one, OTHER=two), suite("second", text, HERE=two, OTHER=one)]
    results = list(run_tests.execute(runs, ARGUMENTS, at_once=2))
    assert [counts(result) for _, result in results] == [(False, 1, 0)] * 2
    spoken = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("begin", "end", ".end"))]
    words = [line.lstrip(".").split() for line in spoken]
    assert [word for word, _ in words] == ["begin", "end"] * 2
    assert words[0][1] == words[1][1] != words[2][1] == words[3][1]
