# SPDX-License-Identifier: GPL-3.0-or-later
"""Builders that the tests share."""
