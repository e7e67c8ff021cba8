"""What images run on, in the words of OCI and Docker, which are Go's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cagebuild.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.config.model import Architecture
    from cagebuild.image.strictjson import Reader

OCI_ARCHITECTURE: Final[Mapping[Architecture, str]] = {"x86_64": "amd64", "aarch64": "arm64"}
_VARIANTS: Final[Mapping[Architecture, frozenset[str]]] = {
    "x86_64": frozenset({"", "v1"}),
    "aarch64": frozenset({"", "v8"}),
}
"""What every processor of the architecture runs; ``v3`` of amd64 needs a newer one."""
_LONGEST_WORD: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on."""

    os: str
    architecture: str
    """OCI's name: ``amd64``, ``arm64``, …"""
    variant: str = ""
    """``v8``, …; empty where the image doesn't say."""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def suits(self, architecture: Architecture) -> bool:
        """Whether an enclave of that architecture runs it."""
        return (
            self.os == "linux"
            and self.architecture == OCI_ARCHITECTURE[architecture]
            and self.variant in _VARIANTS[architecture]
        )

    def require(self, architecture: Architecture, name: str) -> None:
        """Raise ResolveError when the image ``name`` does not suit."""
        if not self.suits(architecture):
            raise ResolveError(
                f"{name} is an image for {self}, not for linux/{OCI_ARCHITECTURE[architecture]}",
                hint="name an image for that architecture, or change enclave.architecture",
            )


def read_platform(read: Reader, given: Mapping[str, object], where: str = "") -> Platform:
    """The platform that an entry of an index names, or a config; raises ImageError."""

    def word(key: str) -> str:
        text = read.text(given.get(key), where + key)
        if not text.isprintable() or len(text) > _LONGEST_WORD:
            read.fail(f"{where}{key} must be a word, not {text[:100]!r}")
        return text

    return Platform(
        os=word("os"),
        architecture=word("architecture"),
        variant=word("variant") if given.get("variant") is not None else "",
    )
