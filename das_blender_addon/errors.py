# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error tree, for both sides of the wire.

    DasError
    ├── SceneError               nothing to track: no camera, no geometry in view …
    │   ├── ShotTooLong          more frames than a shot may have
    │   └── ScriptsDisabled      a Python driver that does not run, because the file's scripts are not trusted
    ├── FirstFrameError          the first frame is missing, unreadable or could not be rendered
    ├── SettingsError            a setting, argument or configuration value that cannot be used
    ├── ProtocolError            the bytes are not a message
    │   ├── VersionMismatch      the two sides speak different protocol versions
    │   └── MessageTooLarge      a message or blob over the agreed limit
    ├── TransportError           the message did not travel
    │   ├── ServerUnreachable    nobody answers at the address
    │   ├── TransportTimeout     the server was there and fell silent
    │   └── AuthenticationFailed the server refused the key
    ├── JobError                 it travelled; the job did not finish
    │   ├── JobRejected          the server refused the request (a field and a reason)
    │   ├── JobCancelled         somebody cancelled it
    │   ├── OutOfMemory          it does not fit the device
    │   ├── WorkerLost           the worker process died, more often than retries allow
    │   └── StorageError         the disk refused: full, read-only, or a file is damaged
    └── ModelError               no such model, bad checkpoint, weights not installed

Every class has a stable ``code`` that travels on the wire and an ``exit_code`` for headless runs.  The message names
the thing, its value and the remedy in one sentence.  Raise the narrowest class, ``from`` the cause.
"""

from __future__ import annotations


class DasError(Exception):
    """Base of every error that Diffusion as Shader raises on purpose.

    ``field`` names the offending setting where there is one (``"num_inference_steps"``); ``detail`` holds text for a
    log (a traceback, a server's words), never for a headline.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, field: str | None = None, detail: str = ""):
        super().__init__(message)
        self.message = message
        self.field = field
        self.detail = detail


class SceneError(DasError):
    """The scene has nothing to track, or something that cannot be tracked."""

    code = "scene"
    exit_code = 10


class ShotTooLong(SceneError):
    """The shot has more frames than a shot may have."""

    code = "scene.too_long"
    exit_code = 11


class ScriptsDisabled(SceneError):
    """A Python driver of the scene does not run, because the scripts of the file are not trusted."""

    code = "scene.autoexec_fail"
    exit_code = 14


class FirstFrameError(DasError):
    """The first frame is missing, unreadable, of the wrong size, or could not be rendered."""

    code = "first_frame"
    exit_code = 12


class SettingsError(DasError):
    """A setting, argument, environment variable or configuration value that cannot be used."""

    code = "settings"
    exit_code = 13


class ProtocolError(DasError):
    """The bytes are not a message of this protocol."""

    code = "protocol"
    exit_code = 20


class VersionMismatch(ProtocolError):
    """Client and server have no protocol version in common."""

    code = "protocol.version"
    exit_code = 21


class MessageTooLarge(ProtocolError):
    """A message or blob is larger than the agreed limit."""

    code = "protocol.too_large"
    exit_code = 22


class TransportError(DasError):
    """The message did not travel."""

    code = "transport"
    exit_code = 30


class ServerUnreachable(TransportError):
    """Nobody answers at the address."""

    code = "transport.unreachable"
    exit_code = 31


class TransportTimeout(TransportError):
    """The server was there and fell silent for longer than allowed."""

    code = "transport.timeout"
    exit_code = 32


class AuthenticationFailed(TransportError):
    """The server refused the key, or an address needs authentication that is not configured."""

    code = "transport.authentication"
    exit_code = 33


class JobError(DasError):
    """The job travelled and did not finish."""

    code = "job"
    exit_code = 40


class JobRejected(JobError):
    """The server refused the request; ``field`` names what was wrong with it."""

    code = "job.rejected"
    exit_code = 41


class JobCancelled(JobError):
    """The job was cancelled."""

    code = "job.cancelled"
    exit_code = 42


class OutOfMemory(JobError):
    """The job does not fit the device's memory."""

    code = "job.out_of_memory"
    exit_code = 43


class WorkerLost(JobError):
    """The worker process died, more often than retries allow."""

    code = "job.worker_lost"
    exit_code = 44


class StorageError(JobError):
    """A disk refused to keep something: full, read-only, or a stored file is damaged."""

    code = "job.storage"
    exit_code = 45


class ModelError(DasError):
    """No such model, a bad checkpoint, or weights that are not installed."""

    code = "model"
    exit_code = 50


def all_error_classes() -> list[type[DasError]]:
    """Every class of the tree, the base first, parents before children."""
    found: list[type[DasError]] = [DasError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


def error_from_code(code: str, message: str, *, field: str | None = None, detail: str = "") -> DasError:
    """Build the error that ``code`` names; an unknown code gives the nearest ancestor (``"job.new"`` → `JobError`).

    A newer server may send codes that this side does not know yet: the message still reaches the user.
    """
    classes = {cls.code: cls for cls in all_error_classes()}
    name = code
    while name and name not in classes:
        name = name.rpartition(".")[0]
    return classes.get(name, DasError)(message, field=field, detail=detail)
