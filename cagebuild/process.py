"""The only door to other programs.

Programs get an argument vector, never a shell, and an environment made here: nothing leaks in from
the caller's but what is asked for. A failure is a typed error with the command in a form that can
be pasted.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

from cagebuild.errors import ToolFailedError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LAST_LINES = 20
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
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C",
        **(env or {}),
    }
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
