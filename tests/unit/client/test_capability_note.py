# SPDX-License-Identifier: GPL-3.0-or-later
"""The note of what a server offered: comes back equal, is not rewritten, and is never the reason of a failure."""

import json
import logging

import pytest

from das_blender_addon.client.capability_note import NAME, keep_capabilities, kept_capabilities
from tests.support.capabilities import capabilities_of, model_capability

OFFERED = capabilities_of(model_capability(), model_capability(name="other", exact_steps=[4, 8]))


def test_kept_capabilities_come_back_equal(tmp_path):
    keep_capabilities(tmp_path / "shot", OFFERED)
    assert kept_capabilities(tmp_path / "shot") == OFFERED


def test_newer_capabilities_replace_older_ones_and_equal_ones_write_nothing(tmp_path):
    keep_capabilities(tmp_path, OFFERED)
    first = (tmp_path / NAME).stat().st_ino
    keep_capabilities(tmp_path, OFFERED)
    assert (tmp_path / NAME).stat().st_ino == first
    newer = capabilities_of(model_capability(default_steps=3))
    keep_capabilities(tmp_path, newer)
    assert kept_capabilities(tmp_path) == newer


def test_nothing_kept_is_none(tmp_path):
    assert kept_capabilities(tmp_path / "nowhere") is None


def test_note_of_an_older_release_comes_back_without_what_it_did_not_know(tmp_path):
    keep_capabilities(tmp_path, OFFERED)
    plain = json.loads((tmp_path / NAME).read_text())
    for model in plain["models"]:
        del model["is_fast"], model["size_range"]
    (tmp_path / NAME).write_text(json.dumps(plain))
    assert kept_capabilities(tmp_path) == OFFERED


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"default_model": 3}', b"\xff\xfe"])
def test_unreadable_note_is_none(tmp_path, text):
    (tmp_path / NAME).write_bytes(text)
    assert kept_capabilities(tmp_path) is None


def test_disk_that_refuses_is_logged(tmp_path, caplog):
    (tmp_path / "shot").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        keep_capabilities(tmp_path / "shot", OFFERED)
    assert "while no server answers" in caplog.text
