"""Programs whose results change from day to day, and how to call them so that they don't."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.dockerfile.packages import (
    APT_VALUES,
    CHECKS,
    Finding,
    family,
    has,
    operands,
    pip_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.dockerfile.shell import Command

_CHECKSUMS = frozenset({"cosign", "gpg", "gpgv", "minisign", "rpmkeys", "shasum", "signify"})
_SUM = re.compile(r"(b2|md5|sha[0-9]+)sum")
_SNAPSHOT = re.compile(r"snapshot\.(debian|ubuntu)\.|APT::Snapshot|--snapshot\b")
_SHADOW = re.compile(r"/etc/shadow|\bchage\b")
_COMMIT = re.compile(r"[0-9a-f]{7,64}|\$.*")
_LOCAL = re.compile(r"[a-z]+://(localhost|127\.|\[::1\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habitat:
    """What has to be known of the stage of a command."""

    removed: str
    """All that its ``rm`` are given."""
    has_snapshot: bool
    """Whether apt gets its packages from one day's archive."""
    has_commit: bool
    """Whether git checks a commit out."""
    mends_shadow: bool
    """Whether it sets the days in /etc/shadow."""
    shipped: bool
    """Whether what the stage leaves behind is part of the image, all of it."""

    @classmethod
    def of(cls, commands: list[Command], text: str, *, shipped: bool) -> Habitat:
        """``text`` is all that the stage says, heredocs included."""
        return cls(
            removed=" ".join(w for each in commands if each.program == "rm" for w in each.words),
            has_snapshot=bool(_SNAPSHOT.search(text)),
            has_commit=any(map(_checks_out, commands)),
            mends_shadow=bool(_SHADOW.search(text)),
            shipped=shipped,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What has to be known of the RUN of a command."""

    stage: Habitat
    checks: bool
    """Whether it compares a checksum or a signature."""
    cleans: bool
    """Whether it removes or moves files."""
    has_epoch: bool
    """Whether SOURCE_DATE_EPOCH is in its environment."""

    @classmethod
    def of(cls, commands: list[Command], stage: Habitat, *, has_epoch: bool) -> Around:
        """For all commands of a RUN."""
        programs = {each.program for each in commands}
        return cls(
            stage=stage,
            checks=bool(programs & _CHECKSUMS)
            or any(map(_SUM.fullmatch, programs))
            or any(each.words[:2] == ["openssl", "dgst"] for each in commands),
            cleans=bool(programs & {"rm", "trap", "mv"}),
            has_epoch=has_epoch,
        )


def _checks_out(command: Command) -> bool:
    actions = {"checkout", "reset", "switch", "fetch"} & set(command.words)
    fixed = any(_COMMIT.fullmatch(word) for word in command.words[2:])
    return command.program == "git" and bool(actions) and fixed


def find(command: Command, around: Around) -> list[Finding]:
    """What is to be said of one command."""
    name = family(command.program)
    alone = [check(command) for check in (CHECKS.get(name), _ALONE.get(name), _random) if check]
    if name.startswith("apt") and around.stage.has_snapshot:
        alone = []
    placed = [check(command, around) for check in (_AROUND.get(name),) if check]
    return [finding for finding in alone + placed if finding]


def _apt_traces(command: Command, around: Around) -> Finding | None:
    """Logs and lists; where they are removed in the end, they were never there."""
    given = operands(command.words[1:], APT_VALUES)
    removed = around.stage.removed
    if not around.stage.shipped or not given:
        return None
    if given[0] == "install" and not ("/var/log" in removed and "dpkg" in removed):
        if re.search(r"/var/log/?(\*|$| )", removed):
            return None
        return Finding(
            f"{command.program} install writes the time into /var/log/apt and /var/log/dpkg.log",
            "add: rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log"
            " /var/cache/ldconfig/aux-cache",
        )
    if given[0] == "update" and "/var/lib/apt" not in removed:
        return Finding(
            f"{command.program} update leaves today's lists of packages in the image",
            "add: rm -rf /var/lib/apt/lists/*",
        )
    return None


def _pip_cache(command: Command, around: Around) -> Finding | None:
    words = pip_words(command)
    quiet = has(command, "--no-compile", "--target", "-t")
    if words is None or not around.stage.shipped or around.has_epoch or quiet:
        return None
    return Finding(
        "pip install compiles modules, and each .pyc holds the time of its source",
        "put ARG SOURCE_DATE_EPOCH above it (they hold hashes then), or add --no-compile",
    )


def _download(command: Command, around: Around) -> Finding | None:
    urls = [word for word in command.words[1:] if "://" in word and not _LOCAL.match(word)]
    if not urls or around.checks or has(command, "-I", "--head", "--spider"):
        return None
    return Finding(
        f"{command.program} gets {urls[0][:80]}, and nothing checks what it is",
        'add to this RUN: echo "HASH  FILE" | sha256sum -c -; or use ADD --checksum=sha256:…',
    )


def _git(command: Command, around: Around) -> Finding | None:
    given = operands(command.words[1:], "-C -c")
    if given[:1] != ["clone"] or has(command, "--revision") or around.stage.has_commit:
        return None
    return Finding(
        "git clone takes what the branch or tag is today",
        "add git checkout with the full commit, or use ADD with …#COMMIT",
    )


def _date(command: Command) -> Finding | None:
    fixed = any(word.startswith(("-d", "--date", "-r", "--reference")) for word in command.words)
    used = command.captured or command.writes or command.piped
    if fixed or not used or "SOURCE_DATE_EPOCH" in command.variables:
        return None
    return Finding(
        "date gives the time of the build",
        'put ARG SOURCE_DATE_EPOCH above it and write date -u -d "@$SOURCE_DATE_EPOCH"',
    )


def _random(command: Command) -> Finding | None:
    uses = "RANDOM" in command.variables or "/dev/urandom" in " ".join(command.words)
    if not uses and command.program not in {"uuidgen", "mcookie"}:
        return None
    return Finding("this is another value in each build", "write a fixed one")


def _mktemp(_: Command, around: Around) -> Finding | None:
    if not around.stage.shipped or around.cleans:
        return None
    return Finding("mktemp leaves a file with another name in each build", "name it, or remove it")


def _user(command: Command, around: Around) -> Finding | None:
    if not around.stage.shipped or around.has_epoch or around.stage.mends_shadow:
        return None
    return Finding(
        f"{command.program} writes today's day into /etc/shadow",
        "put ARG SOURCE_DATE_EPOCH above it, which shadow's tools heed; busybox's do not:"
        " set the third field of /etc/shadow with sed behind it",
    )


def _keys(command: Command) -> Finding | None:
    words = command.words[1:]
    action = (words or [""])[0]
    openssl = action in {"genrsa", "genpkey", "ecparam", "gendsa", "rand"} or (
        action == "req" and {"-newkey", "-new", "-x509"} & set(words)
    )
    generates = {
        "openssl": bool(openssl),
        "ssh-keygen": any(word.startswith(("-A", "-t", "-N")) for word in words),
        "gpg": bool({"--gen-key", "--generate-key", "--quick-gen-key"} & set(words)),
    }
    if not generates[command.program]:
        return None
    return Finding(
        f"{command.program} makes another key in each build, and all who have the image have it",
        "make keys where the image runs",
    )


_ALONE: dict[str, Callable[[Command], Finding | None]] = {
    "date": _date,
    **dict.fromkeys(("openssl", "ssh-keygen", "gpg"), _keys),
}
_AROUND: dict[str, Callable[[Command, Around], Finding | None]] = {
    **dict.fromkeys(("apt", "apt-get", "aptitude"), _apt_traces),
    **dict.fromkeys(("pip", "python"), _pip_cache),
    **dict.fromkeys(("curl", "wget"), _download),
    "git": _git,
    "mktemp": _mktemp,
    **dict.fromkeys(("useradd", "adduser", "chpasswd", "passwd"), _user),
}
