"""What an installer consists of: busybox and its links, the Go programs, service definitions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import ImageError
from cagebuild.runtime.installer import GUEST, INIT, InstallerFile
from cagebuild.runtime.origin import InvalidOriginError, Origin

if TYPE_CHECKING:
    from pathlib import Path

BIN = "cage/bin"
SERVICES = "cage/service"
_LINK = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
_TAKEN = frozenset({"busybox", "cage-guest"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Of each kind of file: what it was made from, then what is linked into it."""

    busybox: tuple[Origin, ...]
    programs: tuple[Origin, ...]
    """Of ``init`` and ``cage-guest``."""
    services: tuple[Origin, ...]

    @classmethod
    def from_json(cls, data: object) -> Origins:
        """Read ``{"busybox": [origin, …], "programs": […], "services": […]}``.

        Each origin is as ``cagebuild.runtime.origin`` has it. Raises InvalidOriginError.
        """
        if not isinstance(data, Mapping) or set(data) != {"busybox", "programs", "services"}:
            raise InvalidOriginError("origins are those of busybox, programs and services")
        return cls(**{str(kind): _origins(kind, listed) for kind, listed in data.items()})


def _origins(kind: object, listed: object) -> tuple[Origin, ...]:
    if not isinstance(listed, list | tuple) or not listed:
        raise InvalidOriginError(f"the origins of {kind} are no list, or none")
    return tuple(Origin.from_json(each) for each in listed)


def contents(
    *,
    busybox: Path,
    links: Path,
    guest: Path,
    init: Path,
    services: Mapping[str, Path],
    origins: Origins,
) -> tuple[InstallerFile, ...]:
    """The files of an installer.

    ``links`` is the file of busybox's applets, ``services`` has the service definitions by their
    paths below ``runtime/service``. Raises ImageError for a file of links that is malformed.
    """
    return (
        InstallerFile(path=f"{BIN}/busybox", source=busybox, origins=origins.busybox),
        *(
            InstallerFile(path=f"{BIN}/{name}", target="busybox", origins=origins.busybox)
            for name in read_links(links)
        ),
        InstallerFile(path=GUEST, source=guest, origins=origins.programs),
        InstallerFile(path=INIT, source=init, origins=origins.programs),
        *(
            InstallerFile(
                path=f"{SERVICES}/{name}",
                source=source,
                executable=_is_script(source),
                origins=origins.services,
            )
            for name, source in services.items()
        ),
    )


def read_links(file: Path) -> tuple[str, ...]:
    """Names of links to busybox, one a line, sorted; raises ImageError for anything else."""
    names = file.read_text(encoding="ascii", errors="replace").splitlines()
    wrong = [name for name in names if not _LINK.fullmatch(name) or name in _TAKEN]
    if wrong or not names or names != sorted(set(names)):
        shown = f": {wrong[0][:100]!r}" if wrong else ""
        raise ImageError(f"{file.name}: expected names of applets, sorted, each once{shown}")
    return tuple(names)


def _is_script(file: Path) -> bool:
    """By the content, for a mode can be the checkout's or the user's."""
    with file.open("rb") as stream:
        return stream.read(2) == b"#!"
