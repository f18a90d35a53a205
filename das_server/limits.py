# SPDX-License-Identifier: GPL-3.0-or-later
"""What one client may make the server hold and do, in one table; `docs/guides/server.md` has it for people.

The protocol's own bounds (the largest header, chunk, text and list, `kinds.py`) are below these, and so are what a
model makes (frames, pixels, steps) and what a task reads (`tasks/`).
"""

from das_blender_addon.protocol.messages import FETCH_CREDIT, MAX_FRAME_BYTES

MAX_CONNECTIONS = 256
"""Connections at once; one more is ended."""

HANDSHAKE_MS = 3000
"""Longest handshake, milliseconds."""

WAITING_IN = 8
"""Messages of one connection that may wait to be read where the system does not say what it has sent; then its sender
waits."""

WAITING_OUT = 16
"""Messages that may wait for a client that does not read; it misses further ones and asks again."""

MAX_BACKLOG_BYTES = 32 * MAX_FRAME_BYTES
"""What a connection may have sent beyond what we have read of it, before it is ended; clients keep `FETCH_CREDIT`
pieces in flight."""

MAX_SMALL_BACKLOG_BYTES = MAX_FRAME_BYTES // 4
"""The same where it is small messages, each of which costs more than its bytes."""

MAX_WAITING_BYTES = 256 << 20
"""What all connections together, those that were ended with them, may have sent and we have not read, as memory of this
process; where it is more, nobody new is let in until it is read, and who has sent most is ended."""

MAX_FLYING = 2 * FETCH_CREDIT
"""PUT and FETCH of one connection that may wait for the disk; one more is refused."""

MAX_FLYING_BYTES = 128 << 20
"""Pieces of all connections together that may wait to be written, and one more of each that has none; of one beyond
that nothing is kept, its client is told so and sends it again."""

MAX_FOLLOWED = 512
"""Jobs that one connection follows at once; one more is refused."""

MAX_UPLOADS = 64
"""Uploads of one owner that are not at their end; the one that was touched last longest ago gives way to one more."""

MAX_SENT_BYTES = 1 << 40
"""Blobs that one owner has sent and the server keeps, bytes; one more is refused."""

MAX_JOBS = 20_000
"""Jobs of one owner that are not over; one more is refused."""

MAX_REQUESTERS = 4096
"""Requesters of one job that are remembered; one more is refused."""

MAX_REQUESTERS_OF_OWNER = 200_000
"""The same of all jobs of one owner."""
