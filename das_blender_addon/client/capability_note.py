# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server offered when a shot last got a take, kept in the shot's folder: with it the finished take is planned
alike, and so found again, while no server answers.  No Blender in here.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ..errors import ProtocolError, StorageError
from ..protocol import codec
from ..protocol.messages import Capabilities
from .files import write_whole

LOGGER = logging.getLogger(__name__)
NAME = "capabilities.json"


def keep_capabilities(shot_folder: Path, capabilities: Capabilities) -> None:
    """Write ``capabilities`` into ``shot_folder`` unless they are there already.

    A disk that refuses (a cache that is only read) costs no take: it is logged.
    """
    if kept_capabilities(shot_folder) == capabilities:
        return
    try:
        text = json.dumps(codec.to_plain(capabilities), indent=1, sort_keys=True)
        write_whole(Path(shot_folder) / NAME, text.encode())
    except StorageError as error:
        LOGGER.warning("the take will not be found while no server answers: %s", error.message)


def kept_capabilities(shot_folder: Path) -> Capabilities | None:
    """What was kept in ``shot_folder``; None when there is nothing that can be read."""
    try:
        return codec.from_plain(Capabilities, json.loads((Path(shot_folder) / NAME).read_text()))
    except (OSError, ValueError, ProtocolError):
        return None
