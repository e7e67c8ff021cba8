"""The files below ``runtime``: the Go module, service definitions, recipes, and their digests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = ("cmd", "internal")
_HOST = ("cmd/cage-host/", "internal/host/")
"""What only the program of the host is made from, so that no change of it moves an installer."""
_GUEST = ("cmd/cage-guest/", "cmd/cage-init/")
"""The same of the programs in the enclave."""
BUSYBOX = ("build.sh", "busybox.config", "cage.patch", "links")
"""The recipe of busybox: files below ``runtime/busybox``."""


def _root() -> Path:
    installed = _PACKAGE / "data" / "runtime"
    return installed if installed.is_dir() else _PACKAGE.parent / "runtime"


def source_files() -> tuple[tuple[str, Path], ...]:
    """Every file that the build of an installer's programs reads: (path in the module, path here).

    Sorted. The module file and all Go files but tests and the host's, of the installed package or
    of the checkout.
    """
    return _module(without=_HOST)


def host_source_files() -> tuple[tuple[str, Path], ...]:
    """The same of cage-host."""
    return _module(without=_GUEST)


def host_files() -> tuple[tuple[str, Path], ...]:
    """Every file of this project that the recipe of cage-host reads, sorted."""
    return tuple(sorted((*host_source_files(), ("guest/build.sh", recipe_file("guest/build.sh")))))


def _module(*, without: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    root = _root()
    files = [root / "go.mod"]
    for folder in _FOLDERS:
        files += (root / folder).rglob("*.go")
    names = ((file.relative_to(root).as_posix(), file) for file in files)
    return tuple(
        sorted(
            (name, file)
            for name, file in names
            if not name.endswith("_test.go") and not name.startswith(without)
        )
    )


def service_files() -> tuple[tuple[str, Path], ...]:
    """Every service definition, as (path below ``runtime/service``, path here), sorted."""
    root = _root() / "service"
    files = (file for file in root.rglob("*") if file.is_file())
    return tuple(sorted((file.relative_to(root).as_posix(), file) for file in files))


def kernel_files(architecture: str) -> tuple[tuple[str, Path], ...]:
    """Every file of this project that the recipe of a kernel reads, sorted."""
    names = ("kernel/build.sh", f"kernel/{architecture}.config")
    return tuple((name, recipe_file(name)) for name in sorted(names))


def installer_files() -> tuple[tuple[str, Path], ...]:
    """Every file of this project that the recipe of an installer reads, sorted."""
    recipe = ("guest/build.sh", *(f"busybox/{name}" for name in BUSYBOX))
    return tuple(
        sorted(
            (
                *source_files(),
                *((f"service/{name}", path) for name, path in service_files()),
                *((name, recipe_file(name)) for name in recipe),
            )
        )
    )


def recipe_file(name: str) -> Path:
    """A file of a recipe by its path below ``runtime``."""
    return _root() / name


def tree_digest(files: Iterable[tuple[str, Path]]) -> Digest:
    """SHA-256 over one line for each file, as ``sha256sum`` prints them, sorted by name."""
    lines = (f"{Digest.of_file(path).hex}  {name}\n" for name, path in sorted(files))
    return Digest("sha256", hashlib.sha256("".join(lines).encode()).hexdigest())
