# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire: messages, their codec, array frames and PNG.  No bpy, no zmq, no torch."""
