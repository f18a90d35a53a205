# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's configuration: which source wins, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from das_blender_addon.errors import AuthenticationFailed, SettingsError
from das_server.config import ServerConfig, build_config, default_state_folder, is_loopback, split_address


def config_file(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_config_has_its_defaults_when_nothing_is_given(tmp_path):
    config = build_config(environment={"HOME": str(tmp_path)})
    assert config == dataclasses.replace(ServerConfig(), state=default_state_folder({"HOME": str(tmp_path)}))
    assert config.bind == "tcp://127.0.0.1:5599"
    assert config.state.is_relative_to(tmp_path)


def test_config_takes_flag_before_environment_before_file(tmp_path):
    file = config_file(tmp_path, 'model = "from-file"\nthreads = 3\nlog_level = "error"\ncancel_grace_s = 4\n')
    environment = {"HOME": str(tmp_path), "DAS_SERVER_MODEL": "from-environment", "DAS_SERVER_THREADS": "2"}
    config = build_config({"model": "from-flag", "threads": None}, environment=environment, file=file)
    assert (config.model, config.threads, config.log_level, config.cancel_grace_s) == ("from-flag", 2, "error", 4.0)


def test_config_finds_its_file_by_environment_and_by_platform_folder(tmp_path):
    file = config_file(tmp_path, "threads = 5\n")
    assert build_config(environment={"DAS_SERVER_CONFIG": str(file), "HOME": str(tmp_path)}).threads == 5
    folder = tmp_path / "xdg" / "das-server"
    folder.mkdir(parents=True)
    config_file(folder, "threads = 6\n")
    assert build_config(environment={"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}).threads == 6


def test_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build_config().model = "other"


def test_config_reads_lists_and_folders(tmp_path):
    config = build_config({"devices": "cuda:0, cuda:1", "state": "~/jobs"}, environment={"HOME": str(tmp_path)})
    assert config.devices == ("cuda:0", "cuda:1")
    assert config.state.is_absolute()
    file = config_file(tmp_path, 'devices = ["cpu"]\n')
    assert build_config(environment={}, file=file).devices == ("cpu",)


@pytest.mark.parametrize(("value", "on"), [("true", True), ("On", True), ("1", True), ("no", False), ("0", False)])
def test_config_reads_switches(tmp_path, value, on):
    environment = {"HOME": str(tmp_path), "DAS_SERVER_COMPILE": value}
    assert build_config(environment=environment).compile is on
    file = config_file(tmp_path, "compile = true\n")
    assert build_config({"compile": None}, environment={}, file=file).compile is True
    assert build_config({"float8": value}, environment={}, file=file).float8 is on


@pytest.mark.parametrize("values", [{"max_workers": 4}, {"min_workers": 2}, {"min_workers": 0}])
def test_config_has_numbers_of_workers_for_a_cluster_only(values):
    with pytest.raises(SettingsError, match="are for a cluster"):
        build_config(values, environment={})
    assert build_config(values | {"workers": "ray"}, environment={}).workers == "ray"


def test_config_refuses_fewer_workers_at_most_than_at_least():
    with pytest.raises(SettingsError, match="max_workers is 2 but must be at least min_workers, 3"):
        build_config({"workers": "ray", "min_workers": 3, "max_workers": 2}, environment={})


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:5599", "tcp://192.168.1.4:5599", "tcp://*:5599", "tcp://example.org:1", "tcp://[::]:5599"],
)
def test_config_refuses_address_that_others_could_reach(address):
    with pytest.raises(AuthenticationFailed, match="authentication is not configured") as caught:
        build_config({"bind": address})
    assert caught.value.field == "bind"
    assert address in caught.value.message


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:*", "tcp://localhost:5599", "tcp://[::1]:5599", "tcp://127.8.9.1:80"]
)
def test_config_takes_loopback_address(address):
    assert build_config({"bind": address}).bind == address


@pytest.mark.parametrize(
    "address",
    ["", "5599", "localhost:5599", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:70000", "ipc:///tmp/x"],
)
def test_config_refuses_what_is_no_address(address):
    with pytest.raises(SettingsError, match="tcp://HOST:PORT"):
        build_config({"bind": address})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", "many"),
        ("threads", -1),
        ("threads", True),
        ("threads", 1.5),
        ("max_attempts", 0),
        ("max_blob_bytes", (1 << 48) + 1),
        ("keep_s", "nan"),
        ("keep_s", "inf"),
        ("log_level", "loud"),
        ("devices", ""),
        ("devices", "cpu,gpu"),
        ("model", 3),
        ("attention_backend", "flash"),
        ("compile", "perhaps"),
        ("compile", 1),
        ("float8", "perhaps"),
        ("speed", "warp"),
        ("devices", "cuda:0+cuda:0"),
        ("devices", "cuda:0+cpu"),
        ("devices", "cuda:0+"),
        ("devices", "auto+cpu"),
    ],
)
def test_config_refuses_value_and_names_it(name, value):
    with pytest.raises(SettingsError) as caught:
        build_config({name: value})
    assert caught.value.field == name
    assert name in caught.value.message


def test_config_names_source_of_bad_value():
    with pytest.raises(SettingsError, match="DAS_SERVER_THREADS"):
        build_config(environment={"DAS_SERVER_THREADS": "x"})


def test_config_refuses_unknown_name_in_file(tmp_path):
    with pytest.raises(SettingsError, match="'modell'.*use one of bind, state"):
        build_config(environment={}, file=config_file(tmp_path, 'modell = "x"\n'))


@pytest.mark.parametrize("text", ["model = ", "\xff"])
def test_config_says_which_file_is_broken(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match="config.toml"):
        build_config(environment={}, file=path)


def test_config_refuses_missing_file_that_was_named(tmp_path):
    with pytest.raises(SettingsError, match="absent.toml"):
        build_config(environment={}, file=tmp_path / "absent.toml")


def test_address_splits_into_host_and_port():
    assert split_address("tcp://[::1]:5599") == ("::1", "5599")
    assert split_address("tcp://127.0.0.1:*") == ("127.0.0.1", "*")
    assert is_loopback("127.1.2.3") and is_loopback("localhost") and not is_loopback("10.0.0.1")


def test_config_takes_workers_of_several_devices_here_and_not_in_a_cluster():
    assert build_config({"devices": "cuda:0+cuda:1, cpu+cpu"}).devices == ("cuda:0+cuda:1", "cpu+cpu")
    with pytest.raises(SettingsError, match="a worker of several devices is not for a cluster"):
        build_config({"devices": "cuda:0+cuda:1", "workers": "ray"})
