# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses as people type them."""

import pytest

from das_blender_addon.client.address import is_loopback, normalise_address
from das_blender_addon.errors import SettingsError


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("localhost", "tcp://localhost:5599"),
        (" 127.0.0.1 ", "tcp://127.0.0.1:5599"),
        ("gpu-box:6000", "tcp://gpu-box:6000"),
        ("GPU.example.org", "tcp://gpu.example.org:5599"),
        ("http://gpu:80/", "tcp://gpu:80"),
        ("https://gpu", "tcp://gpu:5599"),
        ("tcp://10.0.0.7:5599", "tcp://10.0.0.7:5599"),
        ("[::1]", "tcp://[::1]:5599"),
        ("tcp://[fe80::1]:7", "tcp://[fe80::1]:7"),
    ],
)
def test_address_is_normalised(typed, address):
    assert normalise_address(typed) == address == normalise_address(address)


@pytest.mark.parametrize(
    "typed",
    ["", " ", "tcp://", ":5599", "a b", "host:port", "host:0", "host:65536", "http://host/path", "user@host", "::1"]
    + ["ipc:///tmp/socket", "tcp://*:5599", "0.0.0.0", "[::]:5599", "host:1:2", "inproc://x"],
)
def test_address_that_leads_nowhere_is_refused_in_a_sentence(typed):
    with pytest.raises(SettingsError) as caught:
        normalise_address(typed)
    assert caught.value.field == "server" and repr(typed) in caught.value.message


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8", True),
        ("[::1]:9", True),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("[fe80::1]", False),
    ],
)
def test_loopback_is_told_from_the_network(address, loopback):
    assert is_loopback(address) is loopback
