"""The only door to other programs.

Programs get an argument vector, never a shell, and an environment made here: nothing leaks in from
the caller's but what is asked for. A failure is a typed error with the command in a form that can
be pasted.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from cagebuild.errors import ToolFailedError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_LAST_LINES = 20
_TAIL = 1 << 16
_LOOK_AGAIN = 0.2
"""Seconds between two looks at a program that is watched."""
_ENGINES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "CONTAINER_HOST", "XDG_RUNTIME_DIR")
_BUILDER = re.compile(
    r"DOCKER_(HOST|CONTEXT|CONFIG|TLS|TLS_VERIFY|CERT_PATH|API_VERSION)|BUILDX_(BUILDER|CONFIG)"
    # Where credential helpers and caches find who the user is.
    r"|(AWS|AZURE|ACTIONS|GOOGLE|CLOUDSDK)_\w+|GITHUB_(TOKEN|REPOSITORY|API_URL)|SSH_AUTH_SOCK"
    r"|XDG_RUNTIME_DIR|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|PASSWORD_STORE_DIR"
    r"|(https?|all|no)_proxy|HTTPS?_PROXY|ALL_PROXY|NO_PROXY|SSL_CERT_(FILE|DIR)"
)
_LONGEST_LINE = 1 << 16
_GRACE = 10.0
"""Seconds that a program which is followed has to end by itself."""
_NETWORK = re.compile(
    r"(PIP_\w+|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|NETRC|XDG_CONFIG_HOME)",
    re.IGNORECASE,
)


def find(program: str, *, needed_for: str, hint: str) -> str:
    """The path of ``program``, or ToolMissingError saying what needs it and how to get it."""
    path = shutil.which(program)
    if path is None:
        raise ToolMissingError(f"{needed_for} needs the program '{program}'", hint=hint)
    return path


class Alternative(Protocol):
    """One of several tools that do the same."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def unavailable(self) -> str:
        """Why it cannot be used here, and how to get it; empty where it can."""


_Alternative = TypeVar("_Alternative", bound=Alternative)


def first_available(tools: Iterable[_Alternative], *, needed: str, hint: str) -> _Alternative:
    """The first that can be used; those after it are not looked at.

    Raises ToolMissingError, which begins with ``needed``, with the reason for each.
    """
    reasons = []
    for tool in tools:
        reason = tool.unavailable
        if not reason:
            return tool
        reasons.append(f"  {tool.name}: {reason}")
    raise ToolMissingError("\n".join([f"{needed}:", *reasons]), hint=hint)


def network_settings() -> dict[str, str]:
    """The user's own settings of package index, proxies and certificates, for what fetches.

    They say where bytes come from. Which bytes is never left to them: what is fetched has a digest.
    """
    return {name: value for name, value in os.environ.items() if _NETWORK.fullmatch(name)}


def engine_settings() -> dict[str, str]:
    """Where the user's container engine is: not what runs in it."""
    return {name: os.environ[name] for name in _ENGINES if name in os.environ}


def builder_settings() -> dict[str, str]:
    """Which builder the user has chosen, and how it is reached: not what it makes.

    So neither SOURCE_DATE_EPOCH nor BuildKit's switches (``BUILDX_NO_…``, ``BUILDKIT_…``).
    """
    return {name: value for name, value in os.environ.items() if _BUILDER.fullmatch(name)}


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
) -> bytes:
    """Run a program to its end and return its standard output.

    ``env`` is added to a bare environment of PATH, HOME and LC_ALL=C. Raises ToolMissingError when
    the program is not there and ToolFailedError, with the last lines of its standard error, when it
    fails.
    """
    environment = {**_bare_environment(), **(env or {})}
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program '{argv[0]}' is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailedError(f"gave up after {timeout:.0f} s: {shlex.join(argv)}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise ToolFailedError(
            "\n  ".join([f"exit status {done.returncode} from: {shlex.join(argv)}", *said])
        )
    return done.stdout


def attend(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a program whose output the user is to see, and return its exit status.

    It gets the caller's own environment, with ``env`` on top: it stands for a command of the user.
    """
    return subprocess.run(list(argv), cwd=cwd, env={**os.environ, **env}, check=False).returncode


def watch(
    argv: Sequence[str],
    *,
    output: BinaryIO,
    errors: BinaryIO | None = None,
    stdin: BinaryIO | None = None,
    watcher: Callable[[int], None] = lambda _: None,
) -> int:
    """Run a long program, keep what it says in ``output``, and return its exit status.

    ``errors`` gets its standard error, if that is to be kept apart. ``stdin`` is an open file, or
    nothing. The program has a bare environment (PATH, HOME, LC_ALL=C, ``engine_settings``) and a
    session of its own, so that Ctrl-C is the caller's to hear of. ``watcher`` is told the size of
    ``output``, at least twice a second; whatever it raises ends the program and is passed on.
    Raises ToolMissingError.
    """
    environment = {**_bare_environment(), **engine_settings()}
    try:
        process = subprocess.Popen(
            list(argv),
            env=environment,
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=output,
            stderr=errors if errors is not None else subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program '{argv[0]}' is not on this machine") from error
    try:
        while True:
            watcher(os.fstat(output.fileno()).st_size)
            try:
                return process.wait(timeout=_LOOK_AGAIN)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def follow(
    argv: Sequence[str],
    *,
    say: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Run a long program, hand on each line that it says, and return its exit status.

    Both of its outputs are one. ``say`` gets lines as they come, without their ends; one of more
    than 64 KiB in pieces. Where there is nothing new it gets an empty one, at least twice a second;
    whatever it raises is passed on after the program was asked to end (SIGTERM, then SIGKILL) with
    all that it started. ``env`` is added to PATH, HOME and LC_ALL=C. Raises ToolMissingError.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env={**_bare_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except FileNotFoundError as error:
        raise ToolMissingError(f"the program '{argv[0]}' is not on this machine") from error
    with process:
        output = process.stdout.fileno() if process.stdout is not None else -1
        try:
            _say_lines(process, output, say)
        except BaseException:
            _end_session(process, output)
            raise
    return process.returncode


def _say_lines(process: subprocess.Popen[bytes], output: int, say: Callable[[str], None]) -> None:
    """Until the program has ended and said all; a program that it left behind is not waited for."""
    pending = b""
    while True:
        if not select.select([output], [], [], _LOOK_AGAIN)[0]:
            if process.poll() is not None:
                break
            say("")
            continue
        data = os.read(output, 1 << 16)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        if len(pending) > _LONGEST_LINE:
            lines.append(pending)
            pending = b""
        for line in lines:
            say(line.decode(errors="replace").removesuffix("\r"))
    if pending:
        say(pending.decode(errors="replace"))
    while True:
        try:
            process.wait(timeout=_LOOK_AGAIN)
        except subprocess.TimeoutExpired:
            say("")
        else:
            return


def _end_session(process: subprocess.Popen[bytes], output: int) -> None:
    """Ask a program and all of its session to end, and make them. A second Ctrl-C cuts it short."""
    try:
        _signal_session(process, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        while _signal_session(process, 0) and time.monotonic() < end:
            process.poll()
            # Read, as it may have more to say before it can end.
            if select.select([output], [], [], 0.02)[0] and not os.read(output, 1 << 16):
                time.sleep(0.02)
    finally:
        _signal_session(process, signal.SIGKILL)
        process.wait()


def _signal_session(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether there was anybody to get the signal."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def last_lines(log: BinaryIO, count: int = _LAST_LINES) -> list[str]:
    """The last lines that a watched program said, from at most the last 64 KiB."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
    return log.read().decode(errors="replace").strip().splitlines()[-count:]


def _bare_environment() -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C",
    }
