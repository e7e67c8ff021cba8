"""The pinned Go toolchain of this machine, and what tests compile with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.runtime.toolchain import provide

if TYPE_CHECKING:
    from cagebuild.nitro.pcr import Architecture

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "runtime"
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def run_go(work: Path, folder: Path, *words: str, **env: str) -> bytes:
    """Run the go command in a folder, with this machine's own programs on its PATH.

    ``work`` keeps the toolchain and Go's cache, which is safe for many at once.
    """
    goroot = provide(work)
    return process.run(
        [str(goroot / "bin/go"), *words],
        cwd=folder,
        env={
            "CGO_ENABLED": "0",
            "GOCACHE": str(work / "cache"),
            "GOENV": "off",
            "GOFLAGS": "-mod=readonly",
            "GOPATH": str(work / "path"),
            "GOPROXY": "off",
            "GOROOT": str(goroot),
            "GOTOOLCHAIN": "local",
            "PATH": f"{goroot}/bin:{os.environ['PATH']}",
            **env,
        },
    )


def compile_program(
    work: Path, folder: Path, target: Path, *, architecture: Architecture = "x86_64"
) -> Path:
    """Build the static program of a folder."""
    words = ("build", "-buildvcs=false", "-o", str(target), ".")
    run_go(work, folder, *words, GOARCH=_GOARCH[architecture])
    return target
