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
from typing import TYPE_CHECKING, BinaryIO

from cagebuild.errors import ToolFailedError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from io import FileIO
    from pathlib import Path

_LAST_LINES = 20
_TAIL = 1 << 16
_LOOK_AGAIN = 0.2
"""Seconds between two looks at a program that is watched."""
_ENGINES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "CONTAINER_HOST", "XDG_RUNTIME_DIR")
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


def network_settings() -> dict[str, str]:
    """The user's own settings of package index, proxies and certificates, for what fetches.

    They say where bytes come from. Which bytes is never left to them: what is fetched has a digest.
    """
    return {name: value for name, value in os.environ.items() if _NETWORK.fullmatch(name)}


def engine_settings() -> dict[str, str]:
    """Where the user's container engine is: not what runs in it."""
    return {name: os.environ[name] for name in _ENGINES if name in os.environ}


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
) -> int:
    """Run a long program, tell each line that it says as it comes, and return its exit status.

    ``say`` gets standard output and standard error, without line ends, a line of more than 64 KiB
    in pieces; an empty line at least twice a second when there is nothing new. What it raises ends
    the program and all of its process group, and is passed on. The program has a bare environment
    (PATH, HOME, LC_ALL=C) with ``env`` added, and a session of its own. Raises ToolMissingError.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env={**_bare_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ToolMissingError(f"the program '{argv[0]}' is not on this machine") from error
        finally:
            os.close(writing)
        try:
            _tell(process.pid, pipe, say)
            while not _has_ended(process.pid):
                say("")
                time.sleep(_LOOK_AGAIN)
        finally:
            # Also when the program itself has ended: what it started shall not live on. It isn't
            # waited for before, so that its number can be no other group's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode


def _tell(pid: int, pipe: FileIO, say: Callable[[str], None]) -> None:
    """Read until the end of the pipe, or until the program has ended and the pipe is empty."""
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], _LOOK_AGAIN)
        if not ready:
            if _has_ended(pid):
                break
            say("")
            continue
        data = pipe.read(_TAIL)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) >= _TAIL:
            lines, rest = [*lines, rest], b""
        for line in lines:
            say(line.decode(errors="replace").rstrip("\r"))
    if rest:
        say(rest.decode(errors="replace").rstrip("\r"))


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


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
