# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door: the one loop (`server`), its socket (`endpoint`), what each request does (`requests`).  No torch."""
