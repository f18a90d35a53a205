# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives the server: the job list (`jobs`, `job`, `schema`), blobs, the lock on the folder.  No torch."""
