# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests compute with what a worker imports."""

from das_server.workers.machine import import_all

import_all(compiler=False)
