# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door: one ROUTER socket and its loop (`endpoint`, `server`), what each request does (`requests`).  Never
imports torch."""
