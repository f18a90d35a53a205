# SPDX-License-Identifier: GPL-3.0-or-later
"""Variations as a table, in a file or a text."""

from dataclasses import replace

import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.kinds import MAX_PROMPT
from das_blender_addon.take.variation_table import is_table, read_text, rows_of, variations_of
from das_blender_addon.take.variations import MOST
from tests.unit.take.test_variations import SETTINGS


def told(rows):
    return [(one.prompt, one.seed, one.guidance) for one in rows]


@pytest.mark.parametrize("parted_by", [",", ";", "\t"])
def test_rows_are_variations_and_empty_cells_what_is_chosen_beside(parted_by):
    lines = (("prompt", "Seed", "guidance"), ('"rot, groß; ""neu"""', "3,9" if parted_by != "," else '"3,9"', "4.5"),
             ("", "", ""), ("# later", "", ""), ("", "1-2", ""), ("lamp",))  # fmt: skip
    text = "\ufeff" + "\r\n".join(parted_by.join(line) for line in lines)
    assert told(rows_of(text, SETTINGS, seeds=(8,), guidances=(1.0, 2.0))) == [
        ('rot, groß; "neu"', 3, 4.5), ('rot, groß; "neu"', 9, 4.5),
        ("p", 1, 1.0), ("p", 2, 1.0), ("p", 1, 2.0), ("p", 2, 2.0),
        ("lamp", 8, 1.0), ("lamp", 8, 2.0),
    ]  # fmt: skip


def test_steps_and_negative_prompts_are_of_their_row_only():
    text = "Negative_Prompt,steps,prompt\nfog,4,a\n,,b\n"
    one, other = rows_of(text, replace(SETTINGS, negative_prompt="n", steps=20, prompts_at=((1, "marker"),)))
    assert (one.negative_prompt, one.steps, one.prompt, one.prompts_at) == ("fog", 4, "a", ())
    assert (other.negative_prompt, other.steps, other.prompt) == ("n", 20, "b")


def test_text_without_a_heading_has_a_prompt_in_each_line():
    assert not is_table("a seed, in prompt\n") and not is_table("") and is_table("# x\n\n PROMPT \n")
    assert told(variations_of("seed, tree\na vase\n", SETTINGS, (1,), name="The text")) == [
        ("seed, tree", 1, 2.0), ("a vase", 1, 2.0),
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="no prompt in The text"):
        variations_of("# nothing\n", SETTINGS, name="The text")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not name its columns"),
        ("seed,colour\n1,red\n", "does not name its columns"),
        ("seed,prompt,SEED\n1,a,2\n", "the column 'seed' twice"),
        ("seed,prompt\n", "has no rows"),
        ("seed\n1,2,3\n", "more cells in row 1 than columns"),
        ("seed\n1\n-4\n", "row 2: The seeds '-4'"),
        ("guidance\n99\n", "row 1: The guidance scale is 99"),
        ("guidance\nnan\n", "row 1: The guidance scale is nan"),
        ("steps\n2.5\n", "row 1: '2.5' is no steps; write a whole number from 0 to 1000"),
        ("steps\ninf\n", "row 1: 'inf' is no steps"),
        ("guidance\nmuch\n", "'much' is no guidance; write a number"),
        (f"prompt\n{'a' * (MAX_PROMPT + 1)}\n", "row 1: The prompt has"),
        ("seed\n" + "1-40\n41-80\n", f"more than {MOST} variations"),
    ],
)
def test_table_that_is_none_is_refused_in_one_sentence(text, words):
    with pytest.raises(SettingsError, match=words):
        rows_of(text, SETTINGS)


def test_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"prompt\n\xfc\n")
    for name, reason in (("latin.csv", "no UTF-8"), ("none.csv", "No such file")):
        with pytest.raises(SettingsError, match=f"{name} cannot be read: .*{reason}"):
            read_text(tmp_path / name)
