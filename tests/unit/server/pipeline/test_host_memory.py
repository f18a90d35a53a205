# SPDX-License-Identifier: GPL-3.0-or-later
"""Free host memory: what the system says, and a container's limit where there is one."""

import os
import sys

import pytest

from das_server.pipeline.host_memory import UNKNOWN_BYTES, available_bytes

MEMINFO = "MemTotal:       24684092 kB\nMemFree:        15133416 kB\nMemAvailable:   20517588 kB\n"


def container(folder, limit, used=3000, cached=500):
    folder.mkdir()
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 2000\ninactive_file {cached}\n")
    return folder


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


def test_available_memory_is_what_linux_calls_available(meminfo, tmp_path):
    assert available_bytes(meminfo, tmp_path / "none") == 20517588 * 1024


def test_container_limits_it(meminfo, tmp_path):
    assert available_bytes(meminfo, container(tmp_path / "a", 10_000)) == 10_000 - 3000 + 500
    assert available_bytes(meminfo, container(tmp_path / "b", 2000)) == 0
    assert available_bytes(meminfo, container(tmp_path / "c", "max")) == 20517588 * 1024


def test_other_systems_are_asked_in_their_own_way(tmp_path):
    found = available_bytes(tmp_path / "none", tmp_path / "none")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else UNKNOWN_BYTES
    assert 0 < found <= total


def test_this_machine_has_some():
    assert 0 < available_bytes() < UNKNOWN_BYTES
