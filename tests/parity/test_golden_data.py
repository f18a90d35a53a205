# SPDX-License-Identifier: GPL-3.0-or-later
"""The golden files are the ones that their manifest describes."""

import hashlib

import pytest

from tests.parity.golden_data import GOLDEN, read_json

MANIFEST = read_json("MANIFEST")


@pytest.mark.parametrize("name", MANIFEST)
def test_file_is_the_one_in_the_manifest(name):
    content = (GOLDEN / name).read_bytes()
    assert len(content) == MANIFEST[name]["bytes"]
    assert hashlib.sha256(content).hexdigest() == MANIFEST[name]["sha256"]


def test_manifest_lists_every_file():
    files = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()}
    about = {name for name in files if name.endswith(("MANIFEST.json", "PROVENANCE.md"))}
    assert files - about == set(MANIFEST)
