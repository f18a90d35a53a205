# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests' modules have imported is not searched for garbage whenever a model is let go."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported_for_good():
    gc.collect()
    gc.freeze()
