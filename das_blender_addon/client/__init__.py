# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a server: addresses, the client, a whole job.  No bpy."""
