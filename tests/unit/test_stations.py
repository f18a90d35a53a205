# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scripts show: one line per station, on a terminal and elsewhere; a quiet command's words when it fails."""

import importlib.util
import io
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stations():
    spec = importlib.util.spec_from_file_location("stations", ROOT / "scripts" / "stations.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shown(self):
        """The lines as they stand in the end."""
        return [line.split("\r\x1b[K")[-1] for line in self.getvalue().rstrip("\n").split("\n")]


@pytest.fixture
def terminal(monkeypatch, stations):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(stations, "REDRAW_S", 0.0)
    return Terminal()


def test_station_is_one_line_with_its_tenths_where_there_is_no_terminal(stations):
    stream = io.StringIO()
    with stations.Station("making coffee", stream) as station:
        for percent in range(0, 100, 3):
            station.progress(percent / 100, "grinding")
    text = stream.getvalue()
    assert re.fullmatch(r"── making coffee 10% 20% 30% 40% 50% 60% 70% 80% 90% \(\d+ s\)\n", text), text


def test_bar_stays_within_the_terminal_and_leaves_one_line(stations, terminal):
    with stations.Station("making coffee", terminal) as station:
        station.progress(0.5, "grinding " * 20)
        drawn = terminal.shown()[-1]
        assert drawn.startswith("── making coffee ████████████░░░░") and "50 %" in drawn and len(drawn) < 60
    assert re.fullmatch(r"── making coffee \(\d+ s\)", terminal.shown()[-1]) and len(terminal.shown()) == 1


def test_word_in_between_has_a_line_of_its_own(stations, terminal):
    for stream in (io.StringIO(), terminal):
        with stations.Station("making coffee", stream) as station:
            station.progress(0.5)
            station.say("no milk")
    assert terminal.shown()[0] == "   no milk"
    assert terminal.shown()[1].startswith("── making coffee (")


def test_station_that_fails_leaves_its_line_to_the_error(stations):
    stream = io.StringIO()
    with pytest.raises(OSError), stations.Station("making coffee", stream):
        raise OSError
    assert stream.getvalue() == "── making coffee\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [("WARNING: noise\nERROR: no such package\n", "ERROR: no such package"), ("WARNING: alone\n", "WARNING: alone")],
)
def test_quiet_command_tells_its_error_without_the_noise(stations, tmp_path, capfd, said, words):
    log = tmp_path / "log"
    log.write_text("ERROR: of an earlier command\n")
    command = stations.Quiet([sys.executable, "-c", f"import sys; sys.stderr.write({said!r}); sys.exit(3)"], log)
    assert command.process.wait() == 3
    assert command.words() == words
    assert said in log.read_text()
    assert capfd.readouterr() == ("", "")
