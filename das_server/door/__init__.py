# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door: one loop (`server`), its socket (`connections`), what each request does (`requests`).  No torch."""
