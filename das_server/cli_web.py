# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server web``: a page about a running server, for a browser of this user on this machine."""

from __future__ import annotations

import argparse
import threading

from das_server.cli_status import add_server_flag
from das_server.listening import client_config


def add_web_parser(web: argparse.ArgumentParser) -> None:
    """The flags of ``das-server web``."""
    add_server_flag(web)
    web.add_argument("--port", type=int, default=0, metavar="PORT", help="of 127.0.0.1 (default: a free one)")
    web.set_defaults(command=_web)


def _web(options: argparse.Namespace) -> None:
    from das_server.door.ask import ask_status
    from das_server.web.site import Site

    config = client_config(options.server, state=options.state_folder)
    ask_status(config)  # a page about nobody is of no use: it says so at once, as every other command does
    with Site(config, options.port) as site:
        print(f"The page about {config.bind} is at {site.url}", flush=True)
        print("Whoever has this line has your rights there. Ctrl-C ends it.", flush=True)
        threading.Event().wait()
