# SPDX-License-Identifier: GPL-3.0-or-later
"""One page for a browser on this machine: what a server does, asked for by the client's protocol.  No torch."""
