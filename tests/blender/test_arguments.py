# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of the command line before the parser reads them."""

import pytest

from das_blender_addon.command_line.arguments import joined, parser

pytestmark = pytest.mark.any_blender


def render():
    """Render."""


@pytest.mark.parametrize("value", ["-3-5", "-3--1", "-5", "-3-9x2", "1-9"])
@pytest.mark.parametrize("flag", ["--frames", "--key-pictures"])
def test_frames_before_0_need_no_equals_sign(flag, value):
    arguments = parser("das", {"render": render}).parse_args(joined(["render", "a.blend", flag, value, "--json"]))
    assert value in (arguments.DAS_FRAMES, arguments.DAS_KEY_PICTURES) and arguments.json
    assert arguments.file == "a.blend"


def test_other_words_stay_as_they_are():
    words = ["render", "-3.blend", "--frames", "--json", "--anew", "-y", "--frames=1"]
    assert joined(words) == words
