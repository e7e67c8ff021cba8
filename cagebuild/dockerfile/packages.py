"""Package managers: what they take another version of on another day.

A finding has to be worth reading: where it is not certain that a command varies, there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cagebuild.dockerfile.shell import Command

APT_VALUES = "-t --target-release -o --option -c --config-file -a"
_RPM_VERSION = re.compile(r"-[0-9]")


@dataclass(frozen=True, slots=True)
class Finding:
    """What varies, and the cure."""

    message: str
    hint: str


def family(program: str) -> str:
    """``python3.11`` and ``pip3`` are ``python`` and ``pip``."""
    return re.sub(r"[0-9.]+$", "", program) if program.startswith(("pip", "python")) else program


def operands(words: Iterable[str], with_value: str = "") -> list[str]:
    """The words that are no options, nor the values of those that take one."""
    taking = set(with_value.split())
    found: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in taking
        else:
            found.append(word)
    return found


def has(command: Command, *options: str) -> bool:
    return any(word.partition("=")[0] in options for word in command.words)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _named(words: Iterable[str]) -> list[str]:
    """Packages: no files, no folders, nothing that a variable names."""
    return [word for word in words if not word.startswith((".", "/", "~")) and "$" not in word]


def _apt(command: Command) -> Finding | None:
    given = operands(command.words[1:], APT_VALUES)
    action, packages = (given or [""])[0], given[1:]
    name = command.program
    if action in {"upgrade", "dist-upgrade", "full-upgrade"}:
        return Finding(
            f"{name} {action} brings what is new today",
            "leave it out and renew the pinned base image, or have sources.list name a snapshot",
        )
    loose = [p for p in _named(packages) if "=" not in p and not p.endswith((".deb", "-"))]
    if action in {"install", "reinstall", "build-dep"} and loose:
        return Finding(
            f"{name} {action} takes today's version of {_some(loose)}",
            "write NAME=VERSION, or have sources.list name a snapshot (snapshot.debian.org)",
        )
    return None


def _apk(command: Command) -> Finding | None:
    given = operands(
        command.words[1:], "-t --virtual -X --repository -p --root --repositories-file --keys-dir"
    )
    if given[:1] == ["upgrade"]:
        return Finding(
            "apk upgrade brings what is new today", "renew the pinned base image instead"
        )
    loose = [p for p in _named(given[1:]) if not re.search(r"[=<>~]", p)]
    if given[:1] != ["add"] or not loose:
        return None
    return Finding(f"apk add takes today's version of {_some(loose)}", "write NAME=VERSION")


def _rpm(command: Command) -> Finding | None:
    given = operands(command.words[1:], "--installroot --releasever --repo --repoid -c --config")
    action, packages = (given or [""])[0], given[1:]
    name = command.program
    if action in {"update", "upgrade", "distro-sync", "dup"}:
        return Finding(f"{name} {action} brings what is new today", "renew the base image instead")
    loose = [
        p
        for p in _named(packages)
        if not _RPM_VERSION.search(p) and "://" not in p and not p.endswith(".rpm")
    ]
    if action not in {"install", "in", "groupinstall", "reinstall"} or not loose:
        return None
    return Finding(f"{name} {action} takes today's version of {_some(loose)}", "write NAME-VERSION")


_PIP_VALUES = (
    "-i --index-url --extra-index-url -f --find-links -t --target --prefix --root --platform"
    " --python-version --trusted-host --timeout --cache-dir --src --progress-bar --implementation"
    " --abi --only-binary --no-binary --proxy --retries --cert -c --constraint -r --requirement"
    " -e --editable --python --report --log --config-settings -C --group"
)


def pip_words(command: Command) -> list[str] | None:
    """The arguments of ``pip install``, however it is called."""
    words = command.words
    name = family(command.program)
    if name == "python" and words[1:3] == ["-m", "pip"]:
        words = words[2:]
    elif command.program == "uv" and words[1:2] == ["pip"]:
        words = words[1:]
    elif name != "pip":
        return None
    given = operands(words[1:], _PIP_VALUES)
    return words[words.index("install") + 1 :] if given[:1] == ["install"] else None


def _pip(command: Command) -> Finding | None:
    words = pip_words(command)
    if words is None or has(command, "-c", "--constraint", "--require-hashes"):
        return None
    loose = [
        p
        for p in _named(operands(words, _PIP_VALUES))
        if not re.search(r"===?|@|/", p) and not p.endswith((".whl", ".gz", ".zip"))
    ]
    if not loose:
        return None
    return Finding(
        f"pip install takes today's version of {_some(loose)}",
        "write NAME==VERSION, better: pip install --require-hashes -r requirements.txt",
    )


def _npm(command: Command) -> Finding | None:
    given = operands(command.words[1:], "--prefix -C --cache --registry --omit --include")
    action, packages = (given or [""])[0], given[1:]
    name = command.program
    if name == "npm" and action in {"install", "i", "add", "update"}:
        loose = [p for p in _named(packages) if not re.search(r".@[0-9]", p)]
        if packages and not loose:
            return None
        return Finding(
            f"npm {action} resolves versions anew", "use npm ci with a package-lock.json"
        )
    frozen = has(command, "--frozen-lockfile", "--immutable", "--frozen")
    if name in {"yarn", "pnpm"} and action in {"install", "i"} and not frozen:
        return Finding(f"{name} {action} may change its lock file", "add --frozen-lockfile")
    return None


def _go(command: Command) -> Finding | None:
    if command.words[1:2] not in (["install"], ["get"], ["run"]):
        return None
    loose = [word for word in command.words[2:] if word.endswith(("@latest", "@main", "@master"))]
    if not loose:
        return None
    return Finding(f"go takes today's version of {_some(loose)}", "write MODULE@vX.Y.Z")


def _gem(command: Command) -> Finding | None:
    given = operands(command.words[1:], "-v --version -i --install-dir -n --bindir -s --source")
    loose = [g for g in _named(given[1:]) if ":" not in g and not g.endswith(".gem")]
    if given[:1] != ["install"] or not loose or has(command, "-v", "--version"):
        return None
    return Finding(f"gem install takes today's version of {_some(loose)}", "write NAME:VERSION")


def _cargo(command: Command) -> Finding | None:
    words = [word for word in command.words[1:] if not word.startswith("+")]
    if words[:1] != ["install"] or has(command, "--path"):
        return None
    fixed = has(command, "--version", "--vers", "--rev") or any("@" in word for word in words)
    if not fixed and not any("$" in word for word in words):
        return Finding("cargo install takes today's version", "add --version X.Y.Z --locked")
    if not has(command, "--locked", "--frozen"):
        return Finding("cargo install resolves dependencies anew", "add --locked")
    return None


CHECKS: dict[str, Callable[[Command], Finding | None]] = {
    **dict.fromkeys(("apt", "apt-get", "aptitude"), _apt),
    "apk": _apk,
    **dict.fromkeys(("yum", "dnf", "microdnf", "tdnf", "zypper"), _rpm),
    **dict.fromkeys(("pip", "python", "uv"), _pip),
    **dict.fromkeys(("npm", "yarn", "pnpm"), _npm),
    "go": _go,
    "gem": _gem,
    "cargo": _cargo,
}
"""By ``family`` of the program."""
