# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what it prints, and that an error is one sentence with the error's own exit status."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from das_server import __version__, cli

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """No settings and no models of whoever runs the tests."""
    for name, folder in (("HOME", ""), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("DAS_SERVER_MODELS", str(tmp_path / "models"))


def test_version_is_that_of_the_project(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_models_are_listed_with_their_folders(capsys, tmp_path):
    assert cli.main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"das-preview  \d+ MB ", lines[0])
    assert lines[1].startswith("das-cogvideox-5b  not installed") and str(tmp_path / "models") in lines[1]


def test_models_path_names_one_or_all(capsys, tmp_path):
    assert cli.main(["models", "path", "das-cogvideox-5b"]) == 0
    assert cli.main(["models", "path"]) == 0
    folder = tmp_path / "models"
    assert capsys.readouterr().out.splitlines() == [str(folder / "das-cogvideox-5b"), str(folder)]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["models", "path", "das-huge"], 50, "das-huge"),
        (["models", "add", "das-cogvideox-5b", "/no/such/folder"], 50, "/no/such/folder"),
        (["models", "pull", "das-preview", "--revision", "main"], 50, "nothing to pull"),
        (["models", "verify", "das-preview"], 50, "part of this software"),
        (["doctor", "--device", "nonsense"], 50, "nonsense"),
        (["doctor", "--device", "cuda:99"], 50, "cuda:99"),
        (["serve", "--bind", "tcp://0.0.0.0:5599"], 33, "authentication is not configured"),
        (["serve", "--threads", "two"], 13, "--threads"),
        (["serve", "--config", "/no/such.toml"], 13, "/no/such.toml"),
        (["serve", "--model", "das-huge"], 50, "das-preview"),
        (["status", "--server", "here"], 13, "tcp://HOST:PORT"),
        (["drain", "--server", "tcp://127.0.0.1:1"], 31, "No server answers at tcp://127.0.0.1:1"),
        (["train", "/no/such.toml"], 50, "/no/such.toml"),
    ],
)
def test_error_is_one_sentence_and_its_exit_status(capsys, arguments, status, words):
    assert cli.main(arguments) == status
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("das-server: ")
    assert captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("arguments", [["models", "pull"], ["models", "pull", "das-cogvideox-5b"]])
def test_pull_without_a_revision_says_how_to_pull_and_how_to_do_without(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("DAS_SERVER_MODELS", str(tmp_path))
    assert cli.main(arguments) == 50
    first, *others = capsys.readouterr().err.splitlines()
    assert "das-server models pull das-cogvideox-5b --revision COMMIT" in first
    assert str(tmp_path / "das-cogvideox-5b") in others and "  transformer/config.json" in others


def test_doctor_names_the_attention_kernel_and_every_model(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "default_state_folder", lambda: tmp_path)
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "kernel.so").write_bytes(bytes(3_000_000))
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "attention backend native: cuDNN's kernel needs an NVIDIA GPU and this is CPU"
    assert "off, unless the server is started with --compile; 3 MB of kernels are kept in" in lines[1]
    assert lines[2].startswith("float8: not here, float8 needs an NVIDIA GPU of compute capability 8.9")
    assert lines[3].startswith("das-preview: installed; profile cpu") and lines[4].startswith("das-cogvideox-5b: ")


def test_unknown_command_is_the_usual_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["dance"])
    assert caught.value.code == 2


def test_help_of_the_command_line_needs_no_torch():
    program = "import sys\nfrom das_server import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
    program += "assert 'torch' not in sys.modules and 'zmq' not in sys.modules"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "serve" in answer.stdout and "doctor" in answer.stdout
