# SPDX-License-Identifier: GPL-3.0-or-later
"""The service and the container of `docs/deploy`: what they say is understood, and what they start starts and ends."""

import json
import re
import shlex
import shutil
import signal
import subprocess

import pytest

from das_server.cli import _parser
from das_server.config import ENVIRONMENT_PREFIX, build_config
from tests.support.server import ROOT, run_das_server, server_environment, server_python

UNIT = ROOT / "docs" / "deploy" / "das-server.service"
CONTAINER = ROOT / "docs" / "deploy" / "Containerfile"
SAFE_ENOUGH = "25"
"""Tenths of what `systemd-analyze security` calls exposure; a GPU is a device that has to be let through."""


def settings_of_unit() -> dict[str, str]:
    """The last value of each setting."""
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def of_unit() -> tuple[list[str], dict[str, str]]:
    """(words after the program, environment)."""
    found = settings_of_unit()
    program, *words = shlex.split(found["ExecStart"])
    assert program.endswith("/das-server")
    return words, dict(one.split("=", 1) for one in shlex.split(found["Environment"]))


def of_container() -> tuple[list[str], dict[str, str]]:
    text = CONTAINER.read_text()
    program, *words = json.loads(re.search(r"^CMD (.*)$", text, re.M)[1])
    assert program == "das-server"
    return words, dict(one.split("=", 1) for one in shlex.split(re.search(r"^ENV (.*)$", text, re.M)[1]))


@pytest.fixture(params=[of_unit, of_container], ids=["unit", "container"])
def command(request, tmp_path):
    """As it stands there, with folders of the test and any free port."""
    words, environment = request.param()
    folder, free = str(tmp_path), re.compile(r":5599$")
    words = [free.sub(":*", word.replace("/var/lib/das-server", folder)) for word in words]
    environment = {name: re.sub(r"^/(state|var/\w+/das-server)", folder, value) for name, value in environment.items()}
    return words, environment


def test_configuration_is_known_and_asks_for_keys(command, tmp_path):
    words, environment = command
    options = _parser().parse_args(words)
    flags = {"bind": options.bind, "state": options.state}
    ours = {name: value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}
    config = build_config(flags, environment={"HOME": str(tmp_path), **ours}, check_address=False)
    assert config.bind == "tcp://0.0.0.0:*" and config.state == tmp_path
    refused = run_das_server(*words, environment=environment)
    assert refused.returncode and "das-server keys create" in refused.stderr


def test_server_starts_and_ends_as_it_is_told(command, tmp_path):
    words, environment = command
    made = run_das_server("keys", "create", "--state", str(tmp_path), environment=environment)
    assert made.returncode == 0, made.stderr
    process = subprocess.Popen(
        [server_python(), "-m", "das_server", *words],
        cwd=ROOT,
        env=server_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert "listening on tcp://0.0.0.0:" in line and f"state {tmp_path}" in line
        given = [] if "DAS_SERVER_STATE" in environment else ["--state-folder", str(tmp_path)]
        asked = run_das_server("status", *given, environment=environment)
        assert asked.returncode == 0 and asked.stdout.startswith("server "), asked.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(float(settings_of_unit()["TimeoutStopSec"])) == 0
        assert not (tmp_path / "listening.json").exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_unit_is_valid_and_hardened(tmp_path):
    unit = tmp_path / UNIT.name
    program = shlex.split(settings_of_unit()["ExecStart"])[0]
    unit.write_text(UNIT.read_text().replace(f"ExecStart={program}", f"ExecStart={shutil.which('true')}"))
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    judge = ["systemd-analyze", "security", "--offline=yes", f"--threshold={SAFE_ENOUGH}", unit]
    found = subprocess.run(judge, capture_output=True, text=True, check=False)
    if "unrecognized option" in found.stderr:
        pytest.skip("this systemd-analyze does not judge files")
    assert found.returncode == 0, found.stdout
