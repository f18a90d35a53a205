# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in: real handshakes, with the client's own code on the other side."""

import functools
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import zmq

from das_blender_addon.client import client as clients
from das_blender_addon.client.client import DasClient
from das_blender_addon.client.keys import ServerKeys, keys_file, keys_for
from das_blender_addon.errors import AuthenticationFailed, JobRejected, ServerUnreachable, SettingsError, StorageError
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.pairing import Pairing, read_pairing
from das_server import cli
from das_server.config import DEFAULT_BIND
from das_server.door.ask import Asker, asker_for
from das_server.listening import FILE, client_config, said_in
from das_server.store.keys import ADMINISTRATOR, LOCK, PAIRING_S, KeyRing
from das_server.store.state_lock import lock_file
from tests.support.front_door import FrontDoor, wait_long

pair_with = functools.partial(clients.pair_with, timeout_s=60.0)


@pytest.fixture(autouse=True)
def own_keys(monkeypatch, tmp_path):
    monkeypatch.setenv("DAS_KEYS", str(tmp_path / "client" / "keys.json"))
    wait_long(monkeypatch)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with FrontDoor(tmp_path_factory.mktemp("locked"), locked=True) as door:
        yield door


def line(door, user="ada"):
    return Pairing(door.address, door.keys.server_keys()[0], door.keys.pair(user)).line


def ping(address, **options):
    with DasClient(address, timeout_s=60, **options) as client:
        return client.ping()


def only_the_owner_reads(path):
    return stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_machine_is_paired_with_one_line_and_let_in_from_then_on(locked, tmp_path):
    with pytest.raises(AuthenticationFailed, match="asks for a key.*das-server keys pair"):
        ping(locked.address)
    text = line(locked)
    assert pair_with(text) == (locked.address, "ada")
    ping(locked.address)
    secret = keys_for(locked.address).secret
    assert secret not in (locked.folder / "keys" / "allowed.json").read_text() and secret not in text
    if os.name == "posix":
        assert only_the_owner_reads(keys_file())
        assert all(map(only_the_owner_reads, (locked.folder / "keys").iterdir()))
    with pytest.raises(AuthenticationFailed, match="does not let in"):
        pair_with(text)  # it was for one use
    ping(locked.address)  # which has cost nothing


def test_commands_on_a_paired_machine_ask_with_its_keys(locked, tmp_path, monkeypatch):
    pair_with(line(locked))
    monkeypatch.setenv("DAS_SERVER_STATE", str(tmp_path / "no state here"))
    with asker_for(client_config(locked.address)) as asker:
        with pytest.raises(JobRejected, match="--admins"):
            asker.ask(m.Drain(0))
        assert asker.ask(m.Status(0)).totals["draining"] is False


def test_commands_on_the_servers_machine_find_it_and_its_keys_in_its_state_folder(locked, tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_SERVER", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    port = locked.address.rpartition(":")[2]
    folder = str(locked.folder)
    with said_in(locked.folder, f"tcp://0.0.0.0:{port}", True):
        assert only_the_owner_reads(locked.folder / FILE)
        for named in (None, locked.address, f"tcp://localhost:{port}"):
            with asker_for(client_config(named, state=folder)) as asker:
                assert asker.ask(m.Status(0)).totals["running"] == 0
        assert client_config(None, state=folder).bind == locked.address
        other = client_config("tcp://127.0.0.1:1", state=folder)  # as of a tunnel
        assert (other.bind, other.curve) == ("tcp://127.0.0.1:1", False)
    assert not (locked.folder / FILE).exists() and client_config(None, state=folder).bind == DEFAULT_BIND


@pytest.mark.parametrize("damaged", ["", "[]", '{"address": "nowhere", "keys": true}', '{"address": 7}'])
def test_damaged_word_of_where_a_server_listens_is_passed_over(damaged, tmp_path):
    (tmp_path / FILE).write_text(damaged)
    assert client_config(None, {"HOME": str(tmp_path)}, state=str(tmp_path)).bind == DEFAULT_BIND


def test_key_for_one_use_does_nothing_else_and_only_for_a_while(locked):
    pairing = read_pairing(line(locked))
    one_use = ServerKeys(pairing.server, zmq.curve_public(pairing.secret.encode()).decode(), pairing.secret)
    with DasClient(locked.address, timeout_s=60, keys=one_use) as client:
        client.hello()
        with pytest.raises(AuthenticationFailed, match="only pairs"):
            client.status()
    later = KeyRing(locked.folder, clock=lambda: time.time() + PAIRING_S + 1)
    assert later.find(one_use.public) is None and locked.keys.find(one_use.public) is not None
    assert one_use.public not in {one.public for one in later.allowed()}


def test_pairing_that_waits_for_the_disk_makes_nobody_else_wait(locked):
    pair_with(line(locked))
    keys, text = keys_for(locked.address), line(locked, "ben")
    with DasClient(locked.address, timeout_s=60, keys=keys) as client, ThreadPoolExecutor(1) as beside:
        client.hello()
        with open(locked.folder / "keys" / LOCK, "r+b") as lock:
            lock_file(lock)  # as another process would that changes the keys
            paired = beside.submit(pair_with, text)
            assert not wait([paired], 0.5).done
            client.ping()
            assert not paired.done()
        assert paired.result(60) == (locked.address, "ben")


def test_key_that_is_revoked_gets_no_further_not_even_where_it_is_connected(locked):
    pair_with(line(locked, "eve"))
    with DasClient(locked.address, timeout_s=60) as client:
        client.ping()
        assert cli.main(["keys", "revoke", "eve", "--state", str(locked.folder)]) == 0
        with pytest.raises(AuthenticationFailed, match="any more"):
            client.ping()
    with pytest.raises(AuthenticationFailed, match="does not let in this machine's key"):
        ping(locked.address)


def test_server_with_another_key_is_not_trusted(locked, tmp_path):
    pair_with(line(locked))
    stored = json.loads(keys_file().read_text())
    stored[locked.address]["server"] = zmq.curve_keypair()[0].decode()
    keys_file().write_text(json.dumps(stored))
    with pytest.raises(AuthenticationFailed, match="another key than the one"):
        ping(locked.address)


def test_server_that_is_not_encrypted_is_not_taken_for_one_that_was(locked, tmp_path):
    pair_with(line(locked))
    with FrontDoor(tmp_path / "open") as unlocked:
        with pytest.raises(AuthenticationFailed, match="another key than the one.* or none"):
            ping(unlocked.address, keys=keys_for(locked.address))
        ping(unlocked.address)


def test_nobody_there_is_still_nobody_there():
    with pytest.raises(ServerUnreachable), DasClient("tcp://127.0.0.1:9", timeout_s=0.5) as client:
        client.ping()


def test_commands_on_the_servers_machine_are_let_in(locked):
    keys = locked.keys.admin_keys()
    with Asker(locked.address, keys=keys) as asker:
        assert isinstance(asker.ask(m.Status(0)), m.StatusReport)
    assert locked.keys.find(keys[1]).user == ADMINISTRATOR


def test_keys_are_made_paired_listed_and_revoked_by_commands(capsys, tmp_path):
    state = ["--state", str(tmp_path)]
    assert cli.main(["keys", "pair", "ada", "--address", "gpu:5599", *state]) == SettingsError.exit_code
    assert "das-server keys create" in capsys.readouterr().err
    assert cli.main(["keys", "create", *state]) == 0
    public = capsys.readouterr().out.split()[-1]
    assert cli.main(["keys", "create", *state]) == 0 and capsys.readouterr().out.split()[-1] == public
    assert cli.main(["keys", "pair", "ada", "--address", "[::1]:5599", *state]) == 0
    pairing = read_pairing(capsys.readouterr().out)
    assert (pairing.address, pairing.server) == ("tcp://[::1]:5599", public)
    assert cli.main(["keys", "list", *state]) == 0
    listed = capsys.readouterr().out
    assert "ada · " in listed and "for one use until" in listed and pairing.secret not in listed
    assert cli.main(["keys", "revoke", "nobody", *state]) == SettingsError.exit_code
    assert cli.main(["keys", "revoke", "ada", *state]) == 0
    assert KeyRing(tmp_path).find(zmq.curve_public(pairing.secret.encode()).decode()) is None


@pytest.mark.parametrize(
    "text", ["", "das-pair:", "das-pair:gpu:5599:00:00", "http://gpu:5599", "das-pair:gpu:x:" + "0" * 64]
)
def test_line_that_is_none_is_refused_without_repeating_it(text):
    with pytest.raises(SettingsError, match="das-server keys pair prints"):
        read_pairing(text)


def test_line_survives_breaks_of_an_email(locked):
    text = line(locked)
    assert read_pairing(f"  {text[:40]}\n{text[40:]} ") == read_pairing(text)
    assert read_pairing(text).line == text


def test_lists_that_are_changed_at_once_lose_nothing(tmp_path):
    ring = KeyRing(tmp_path)
    ring.create()
    held = open(tmp_path / "keys" / LOCK, "r+b")  # noqa: SIM115
    lock_file(held)
    with ThreadPoolExecutor(8) as threads:
        paired = [threads.submit(KeyRing(tmp_path, wait_s=120.0).pair, f"user {number}") for number in range(8)]
        assert not wait(paired, timeout=0.2).done
        held.close()
        assert all(one.result() for one in paired)
    assert {one.user for one in ring.allowed()} == {ADMINISTRATOR, *(f"user {number}" for number in range(8))}


DAMAGED = {
    "no list": "{}",
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a name that is none": '[{"public": 1, "user": "eve"}]',
    "a time that is none": '[{"public": "KEY", "user": "eve", "until_s": "0"}]',
    "no key": '[{"user": "eve"}]',
    "texts": '["KEY"]',
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_list_of_keys_lets_in_nobody_and_says_so(tmp_path, damaged):
    ring = KeyRing(tmp_path)
    ring.create()
    own = ring.admin_keys()[1]
    assert ring.find(own).user == ADMINISTRATOR
    changed = tmp_path / "keys" / "allowed.json"
    changed.write_text(damaged.replace("KEY", own))
    os.utime(changed, (1000, 1000))  # two changes at once have one time, to the system's clock
    for _ in range(2):
        with pytest.raises(StorageError, match="allowed.json"):
            ring.find(own)
    newer = [{"public": own, "user": "ada", "colour": "blue"}]
    changed.write_text(json.dumps(newer))  # of a newer release
    assert ring.find(own).user == "ada"


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_keys_that_others_may_read_and_lists_that_they_may_change_are_not_trusted(tmp_path):
    ring = KeyRing(tmp_path)
    ring.create()
    public = ring.admin_keys()[1]
    for name, ask in (("server.json", ring.server_keys), ("admin.json", ring.admin_keys)):
        (tmp_path / "keys" / name).chmod(0o640)
        with pytest.raises(StorageError, match="mode 640.*chmod 600"):
            ask()
        (tmp_path / "keys" / name).chmod(0o600)
        ask()
    (tmp_path / "keys" / "allowed.json").chmod(0o666)
    os.utime(tmp_path / "keys" / "allowed.json")
    with pytest.raises(StorageError, match="mode 666"):
        ring.find(public)


def test_key_for_one_use_lasts_no_longer_where_the_clock_is_set_back(tmp_path):
    now = [1e9]
    ring = KeyRing(tmp_path, clock=lambda: now[0])
    ring.create()
    secret = ring.pair("ada")
    public = zmq.curve_public(secret.encode()).decode()
    assert ring.find(public) is not None
    now[0] -= 3600
    assert ring.find(public) is None and [one.user for one in ring.allowed()] == [ADMINISTRATOR]


def test_names_of_machines_control_no_terminal(tmp_path, capsys):
    ring = KeyRing(tmp_path)
    ring.create()
    public = zmq.curve_public(ring.pair("ada").encode()).decode()
    ring.exchange(public, "k" * 40, "\x1b[2Jmine\r\nroot · admin")
    assert cli.main(["keys", "list", "--state", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and len(said.splitlines()) == 2 and "mine root" in said
