# SPDX-License-Identifier: GPL-3.0-or-later
"""A real server that lets in nobody without a key: made, opened and asked by its commands, and used by a client."""

import json

import pytest

from das_blender_addon.client.client import DasClient, pair_with
from das_blender_addon.errors import AuthenticationFailed, StorageError
from das_server import cli
from das_server.store.state_lock import lock_file
from tests.support.server import run_das_server, running_server
from tests.support.wire import submit


def test_server_with_keys_serves_those_who_are_paired_and_its_own_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DAS_KEYS", str(tmp_path / "keys.json"))
    state = tmp_path / "state"
    refused = run_das_server("serve", "--bind", "tcp://0.0.0.0:*", "--state", str(state))
    assert refused.returncode == AuthenticationFailed.exit_code and "das-server keys create" in refused.stderr
    assert cli.main(["keys", "create", "--state", str(state)]) == 0
    with running_server(state, "--curve") as server:
        with DasClient(server.address, timeout_s=60) as client, pytest.raises(AuthenticationFailed):
            client.hello()
        address = server.address.removeprefix("tcp://")
        capsys.readouterr()
        assert cli.main(["keys", "pair", "ada", "--address", address, "--state", str(state)]) == 0
        line = capsys.readouterr().out
        with open(state / "keys" / "lock", "r+b") as hangs:  # a command that was stopped in the middle
            lock_file(hangs)
            with pytest.raises(StorageError, match="changed by another process"):
                pair_with(line)
        pair_with(line)
        with DasClient(server.address, timeout_s=60) as client:
            job = submit(client)
            environment = {"DAS_SERVER_STATE": str(state), "DAS_SERVER_CURVE": "1"}
            asked = run_das_server("status", "--json", "--server", server.address, environment=environment)
            assert [one["job"] for one in json.loads(asked.stdout)["jobs"]] == [job]
            client.cancel(job)
        assert server.stop() == 0
