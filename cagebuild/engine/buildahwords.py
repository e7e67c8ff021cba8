"""What buildah is told and what it says: its configuration, its caches, its steps."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import deque
from typing import TYPE_CHECKING

from cagebuild.errors import ResolveError, UnsupportedError
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cagebuild.dockerfile.model import Instruction
    from cagebuild.engine.buildahtext import Steps

Version = tuple[int, int]

HOSTNAME = "buildkitsandbox"
"""The name that a machine has in BuildKit's RUN, too."""
HOSTS = f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
POLICY = json.dumps({"default": [{"type": "insecureAcceptAnything"}]})
"""Images are named by digest: who signed them is no question of the build."""
_STEP = re.compile(r"(?:\[(\d+)/\d+\] )?STEP (\d+)/\d+: ((\w+).*)")
_UNREADABLE = re.compile(r"Error: resolving step .* StartLine:([0-9]+) EndLine:[0-9]+\}: (.*)")
_FAILED = re.compile(r"(?:Error: )?(?:error )?building at STEP \".*?\": (.*)")
_LAST_LINES = 20


def version_of(said: str) -> Version | None:
    """``buildah version 1.28.2 (…)`` and ``podman version 4.3.1``: (1, 28) and (4, 3)."""
    found = re.search(r"version v?(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


_PODMAN = {
    3: {0: 19, 1: 20, 2: 21, 3: 22, 4: 23},
    4: {0: 24, 1: 26, 2: 27, 3: 28, 4: 29, 5: 30, 6: 31, 7: 32, 8: 33, 9: 33},
    5: {0: 35, 1: 36, 2: 37, 3: 38, 4: 39, 5: 40, 6: 41, 7: 42, 8: 43},
}
"""The buildah that a podman has in it, by go.mod of its releases."""


def buildah_in(podman: Version) -> Version:
    """Which buildah a podman builds with; one of a later podman than known is the latest known."""
    major, minor = podman
    known = [b for (a, rows) in _PODMAN.items() for (c, b) in rows.items() if (a, c) <= podman]
    return (1, _PODMAN.get(major, {}).get(minor, max(known, default=0)))


def registries_conf(hosts: Iterable[str]) -> str:
    """registries.conf(5): plain http for registries on loopback, as Docker allows it, alone."""
    text = 'unqualified-search-registries = []\nshort-name-mode = "disabled"\n'
    for host in sorted(set(hosts)):
        if is_loopback(host):
            text += f"\n[[registry]]\nlocation = {json.dumps(host)}\ninsecure = true\n"
    return text


def containers_conf(networks: Path) -> str:
    """containers.conf(5), in place of the user's: no environment, no mounts, no hooks of his."""
    return (
        "[containers]\nhttp_proxy = false\n\n"
        f"[network]\nnetwork_config_dir = {json.dumps(str(networks))}\n\n"
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    )


def storage_conf(root: Path, run_root: Path, driver: str) -> str:
    """storage.conf(5): nothing shared with the user's images."""
    return (
        f'[storage]\ndriver = "{driver}"\ngraphroot = {json.dumps(str(root))}\n'
        f"runroot = {json.dumps(str(run_root))}\n"
    )


def is_remote(source: str) -> bool:
    """Whether ADD gets a source from elsewhere: a URL or a git repository."""
    return "://" in source or source.startswith("git@")


def is_loopback(registry: str) -> bool:
    """Whether ``host[:port]`` is this machine by its name or address."""
    host = registry[1:].partition("]")[0] if registry[:1] == "[" else registry.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cache_repository(text: str, key: str) -> str:
    """The repository of a cache in BuildKit's words, which is all that buildah takes.

    ``type=registry,ref=host/repository[:tag]``, or only the reference. buildah names the entries of
    a cache by tags of its own, so a tag is left out. Raises UnsupportedError.
    """
    kind, reference = "registry", text
    if "=" in text:
        fields = dict(field.partition("=")[::2] for field in text.split(","))
        kind, reference = fields.get("type", ""), fields.get("ref", "")
    if kind != "registry":
        raise UnsupportedError(
            f"{key}: buildah keeps caches in registries alone, not as {text!r}",
            hint="write 'type=registry,ref=host/repository', or build with engine = \"buildkit\"",
        )
    try:
        parsed = Reference.parse(reference)
    except ResolveError as error:
        raise UnsupportedError(f"{key}: {text!r}: {error.message}", hint=error.hint) from error
    return f"{parsed.registry}/{parsed.repository}"


def unreadable(said: Iterable[str]) -> tuple[int, str] | None:
    """The line of an instruction that buildah could not read, and why, if it said so."""
    for line in said:
        if found := _UNREADABLE.search(line):
            return int(found[1]), found[2]
    return None


class Progress:
    """Follows what buildah says: passes it on, and knows where it is."""

    def __init__(self, steps: Steps, say: Callable[[str], None]) -> None:
        self._steps = steps
        self._say = say
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._at: tuple[int, int] | None = None
        self.step = ""
        """The instruction that was begun last, in buildah's words."""
        self.failed = False
        """Whether buildah said that an instruction failed."""

    def line(self, text: str) -> None:
        """Take a line that buildah said."""
        if found := _STEP.fullmatch(text):
            self._at = (int(found[1] or 1) - 1, int(found[2]))
            self.step = found[3]
            self._last.clear()
        elif text:
            found = _FAILED.fullmatch(text)
            self.failed = self.failed or found is not None
            self._last.append(found[1] if found else text)
        self._say(text)

    @property
    def last(self) -> tuple[str, ...]:
        """The last lines that were said, those of the instruction that was begun last."""
        return tuple(self._last)

    @property
    def instruction(self) -> Instruction | None:
        """The instruction that was begun last, where it is certain which of the file's it is.

        With triggers of a base (ONBUILD) there are more steps than instructions.
        """
        if self._at is None:
            return None
        stage, step = self._at
        steps = self._steps[stage] if stage < len(self._steps) else ()
        if not 1 <= step <= len(steps):
            return None
        keyword, found = steps[step - 1]
        return found if self.step.upper().startswith(keyword) else None
