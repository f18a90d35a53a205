# SPDX-License-Identifier: GPL-3.0-or-later
"""Transport: jobs to a server and frames back, over ZeroMQ.  No bpy."""
