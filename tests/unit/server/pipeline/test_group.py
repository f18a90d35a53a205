# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip on two devices (two processes on the CPU) is the clip of one."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.server import ROOT

ATOL = 1e-5
"""Rows one by one, and tokens in parts, add in another order."""
FAST_ATOL = 1e-2
"""Each row decides by itself what it leaves out."""
LIMIT_S = 600
NUM_BLOCKS = 4
"""Main ones and copies of the preview model, each of which runs once a step."""
A_ROW_EACH, SPLIT = "one on each device", "split over the devices"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Name → (largest difference of the latents, how the clip was shared out, guided steps)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.group_leader", str(tmp_path_factory.mktemp("group"))]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {name: rest for name, *rest in map(json.loads, ended.stdout.splitlines())}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("guided", A_ROW_EACH),
        ("plain", SPLIT),
        ("long", SPLIT),
        ("odd", "together"),
        ("lora", A_ROW_EACH),
        ("after a lost one", A_ROW_EACH),
        ("without", SPLIT),
    ],
)
def test_two_devices_make_the_clip_of_one(clips, name, way):
    difference, used, _ = clips[name]
    assert difference <= ATOL and used == way


@pytest.mark.parametrize("name", ["cancelled, a row each", "cancelled, split"])
def test_clip_of_several_devices_stops_within_a_step_and_the_next_one_is_right(clips, name):
    """In the first of a step's three blocks, on both devices."""
    difference, said, begun_after = clips[name]
    assert said == "cancelled" and begun_after == 0 and difference <= ATOL


def test_other_family_computes_a_row_on_each_device_too_and_stops_within_a_step(clips):
    difference, rows, begun = clips["wan"]
    assert rows == A_ROW_EACH and begun == 3 and difference <= ATOL  # one row of three steps here
    difference, rows, begun = clips["wan, cancelled"]
    assert rows == A_ROW_EACH and begun == 2 and difference <= ATOL  # not made, and the next one is right


def test_tokens_are_not_split_inside_a_program_of_one_device(clips):
    """Alone the clip runs compiled; split it does not, and says so; afterwards it would again."""
    difference, used, compiled = clips["compiled, split"]
    assert (used, compiled) == (SPLIT, False) and difference <= ATOL
    ran, _, again = clips["programs that ran"]
    assert ran == 2 * NUM_BLOCKS and again


def test_steps_without_guidance_are_the_second_devices(clips):
    difference, used, guided = clips["fast"]
    assert used == A_ROW_EACH and 0 < guided < 10 and difference <= FAST_ATOL
