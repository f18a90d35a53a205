# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/protocol.md says what the code does."""

import re

from das_blender_addon.protocol import frames, messages
from tests.support.protocol_tables import PAGE, names_in, tables, with_tables


def page():
    return PAGE.read_text(encoding="utf-8")


def test_page_has_the_tables_of_the_code():
    """To repair it: ``python -m tests.support.protocol_tables``."""
    assert page() == with_tables(page())
    assert sorted(names_in(page())) == sorted(tables())


def test_tables_cover_everything():
    made = tables()
    for name in messages.MESSAGES:
        assert f"| `{name}` |" in made["messages"]
    for kind in messages.EVENT_KINDS:
        assert f"| `{kind}` |" in made["events"]
    constants = [
        name
        for name, value in vars(messages).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, int | float)
    ]
    for name in constants:
        assert f"| `{name}` |" in made["limits"]


def test_page_describes_every_request_codec_and_role():
    text = page()
    requests = [
        name for name, cls in messages.MESSAGES.items() if f"{name}_REPORT" in messages.MESSAGES or _is_request(cls)
    ]
    assert len(requests) == 13
    for name in requests:
        assert re.search(rf"^\| `{name}` \| `", text, re.M)
    for codec in frames.CODECS:
        assert f"`{codec}`" in text
    for role in re.findall(r'"(\w+)"', messages.JobInput.__doc__.splitlines()[0]):
        assert f"| `{role}` |" in text


def _is_request(cls):
    """Whether the class's sentence names its reply."""
    return "Reply:" in (cls.__doc__ or "") or cls is messages.Ping
