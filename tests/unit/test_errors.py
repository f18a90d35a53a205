# SPDX-License-Identifier: GPL-3.0-or-later
"""The error tree: its codes travel on the wire and its exit codes are what scripts look at, so neither may change."""

import pickle

import pytest

from das_blender_addon import errors

TABLE = {
    "error": ("DasError", 1),
    "scene": ("SceneError", 10),
    "scene.too_long": ("ShotTooLong", 11),
    "scene.autoexec_fail": ("ScriptsDisabled", 14),
    "first_frame": ("FirstFrameError", 12),
    "settings": ("SettingsError", 13),
    "protocol": ("ProtocolError", 20),
    "protocol.version": ("VersionMismatch", 21),
    "protocol.too_large": ("MessageTooLarge", 22),
    "transport": ("TransportError", 30),
    "transport.unreachable": ("ServerUnreachable", 31),
    "transport.timeout": ("TransportTimeout", 32),
    "transport.authentication": ("AuthenticationFailed", 33),
    "job": ("JobError", 40),
    "job.rejected": ("JobRejected", 41),
    "job.cancelled": ("JobCancelled", 42),
    "job.out_of_memory": ("OutOfMemory", 43),
    "job.worker_lost": ("WorkerLost", 44),
    "job.storage": ("StorageError", 45),
    "model": ("ModelError", 50),
}
"""Code → class, exit code."""


def test_codes_are_those_of_the_table():
    found = {cls.code: (cls.__name__, cls.exit_code) for cls in errors.all_error_classes()}
    assert found == TABLE
    assert len(found) == len(errors.all_error_classes())


def test_tree_at_the_head_of_the_module_names_every_class():
    for cls in errors.all_error_classes():
        assert cls.__name__ in errors.__doc__


def test_code_of_a_child_begins_with_its_parents_code():
    for cls in errors.all_error_classes():
        parent = cls.__mro__[1]
        if "." in cls.code and cls.code != "scene.too_long":
            assert cls.code.startswith(parent.code.partition(".")[0])


@pytest.mark.parametrize("code", TABLE)
def test_error_from_code_builds_the_class_of_the_code(code):
    error = errors.error_from_code(code, "The seed -1 is negative; use 0 or more.", field="seed", detail="line 3")
    assert type(error).__name__ == TABLE[code][0]
    assert (str(error), error.message, error.field, error.detail) == (
        "The seed -1 is negative; use 0 or more.",
        "The seed -1 is negative; use 0 or more.",
        "seed",
        "line 3",
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("job.quota.daily", "JobError"),
        ("job.rejected.seed", "JobRejected"),
        ("weather", "DasError"),
        ("", "DasError"),
        (".", "DasError"),
    ],
)
def test_error_from_code_takes_the_nearest_ancestor_when_the_code_is_new(code, name):
    assert type(errors.error_from_code(code, "x")).__name__ == name


def test_errors_keep_their_message_when_copied_between_processes():
    error = pickle.loads(pickle.dumps(errors.JobRejected("no")))
    assert type(error) is errors.JobRejected and str(error) == "no"
