# SPDX-License-Identifier: GPL-3.0-or-later
"""Cryptomatte: hashes as published and as Cycles writes them, ids that are numbers, ranks as counted one by one."""

import json
from collections import Counter

import numpy as np
import pytest

from das_blender_addon.tracking.cryptomatte import NOTHING, hash_of, id_of, ids_of, ranked, said_in_files

BY_CYCLES = {
    "Cube": "a8fce865", "Light": "c77d43e5", 'Kid "ä"': "de69eb17", "Inst": "d5e5909a", "default_surface": "78d05529",
    "Mat": "24f701e8", "Mat2": "6981811d", "object": "055ec73d",
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [*BY_CYCLES.items(), ("", "00000000"), ("hello", "248bfa47")])
def test_hashes_are_those_that_cycles_writes(name, expected):
    assert f"{hash_of(name):08x}" == expected


@pytest.mark.parametrize(
    ("number", "bits"),
    [(0, 0x00800000), (0xFFFFFFFF, 0xFF7FFFFF), (0x7F800001, 0x7F000001), (0x80000005, 0x80800005), (0xA8FCE865,) * 2],
)
def test_ids_are_numbers_of_the_same_bits(number, bits):
    found = id_of(number)
    assert int(np.float32(found).view(np.uint32)) == bits
    assert np.isfinite(found) and abs(found) >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("levels", [1, 2, 6, 12])
def test_ranks_are_those_of_a_count(levels):
    random = np.random.default_rng(levels)
    samples = random.integers(NOTHING, 5, (8, 300)).astype(np.int32)
    samples[:, :40] = samples[0, :40]
    ids = ids_of(list("abcde"))
    found = ranked(samples, ids, levels)
    assert found.shape == (300, levels, 2)
    for pixel, own in enumerate(samples.T):
        counts = Counter(own[own != NOTHING].tolist())
        shares = sorted((count / 8 for count in counts.values()), reverse=True)[:levels]
        np.testing.assert_array_equal(found[pixel, :, 1], shares + [0.0] * (levels - len(shares)))
        for thing, share in found[pixel]:
            number = ids.tolist().index(thing) if share else None
            assert share == 0.0 and thing == 0.0 or counts[number] / 8 == share
        assert len({thing for thing, share in found[pixel] if share}) == len(shares)


def test_file_says_whose_passes_they_are_and_what_is_in_them():
    found = said_in_files("ViewLayer.CryptoObject", ["Cube", 'Kid "ä"'])
    assert set(found) == {f"cryptomatte/542cafa/{key}" for key in ("name", "hash", "conversion", "manifest")}
    assert found["cryptomatte/542cafa/name"] == "ViewLayer.CryptoObject"
    manifest = found["cryptomatte/542cafa/manifest"]
    assert json.loads(manifest) == {"Cube": "a8fce865", 'Kid "ä"': "de69eb17"} and "ä" in manifest
