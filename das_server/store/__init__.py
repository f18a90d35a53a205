# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives the server: jobs and their events (`jobs`, `job`), blobs, the lock on the folder.  Never imports
torch."""
