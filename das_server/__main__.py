# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m das_server`` is ``das-server``."""

import sys

from das_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
