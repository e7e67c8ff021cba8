"""The real nitro-cli in an image, for a Docker of the tests.

Amazon's packages can't be had on every machine, but the program can: AWS publishes it, with all
that makes image files, as crates. Linuxkit, which nitro-cli runs for its ramdisks, is stood in for
by the Go program in ``linuxkit/``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from tests.support.golang import compile_program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.engines import Daemon

ROOT = Path(__file__).parents[2]
CRATE = "aws-nitro-enclaves-cli"
VERSION = "1.5.2"
SHA256 = "8207ebc4ac89f277406281d04185319535fa3d3d9a64765658753f8b5bd56bd9"
"""Of the crate; its own lock file has those of all that it is built with."""
BLOBS = "usr/share/nitro_enclaves/blobs"
_PROFILE = "profile.release.package.{}.opt-level=3"
_LIBRARY = re.compile(r"(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)")


def provide() -> Path:
    """The program, built once: a minute or two."""
    folder = ROOT / ".nox/nitro-cli"
    program = folder / VERSION / "bin/nitro-cli"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one builds it
        if not program.exists():
            _build(folder)
    return program


def _build(folder: Path) -> None:
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("no cargo: install Rust 1.94 or newer (rustup.rs), libssl-dev and pkg-config")
    target, installed = folder / "target", folder / "new"
    shutil.rmtree(installed, ignore_errors=True)
    # What it does is copying files and hashing them; for all but that, compiling takes far longer.
    hashing = [word for name in ("crc", "sha2") for word in ("--config", _PROFILE.format(name))]
    done = subprocess.run(
        [
            *(cargo, "install", "--quiet", "--locked", *hashing),
            *("--root", installed, f"{CRATE}@{VERSION}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "CARGO_TARGET_DIR": str(target),
            "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_STRIP": "true",
        },
    )
    assert done.returncode == 0, done.stderr
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    crates = home.glob(f"registry/cache/*/{CRATE}-{VERSION}.crate")
    assert {hashlib.sha256(crate.read_bytes()).hexdigest() for crate in crates} == {SHA256}
    shutil.rmtree(target)
    installed.rename(folder / VERSION)


def layer(folder: Path, wrapper: str = "") -> Path:
    """A root filesystem with nitro-cli, the libraries that it needs, and the linuxkit here.

    With ``wrapper`` that script is ``nitro-cli``, and the program is ``/usr/bin/real``.
    """
    program = provide()
    linuxkit = compile_program(
        ROOT / ".nox/go", Path(__file__).parent / "linuxkit", folder / "linuxkit"
    )
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    files = {path.lstrip("/"): Path(path).resolve() for path in _LIBRARY.findall(needed)}
    files[f"{BLOBS}/linuxkit"] = linuxkit
    if wrapper:
        return script_layer(folder, wrapper, {**files, "usr/bin/real": program})
    return write_tree(folder / "tool.tar", {**files, "usr/bin/nitro-cli": program})


def script_layer(folder: Path, script: str, files: Mapping[str, Path] = {}) -> Path:
    """A root filesystem in which ``nitro-cli`` is a script for busybox's shell."""
    path = folder / "script"
    path.write_text(f"#!/bin/busybox sh\n{script}\n")
    own = {"usr/bin/nitro-cli": path, "bin/busybox": Path("/bin/busybox")}
    return write_tree(folder / "tool.tar", {**files, **own})


def write_tree(target: Path, files: Mapping[str, Path]) -> Path:
    """A layer of programs by path, with the folders above them and /tmp."""
    with target.open("wb") as stream:
        writer = TarWriter(stream.write)
        above = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in sorted(above | {"tmp"}):
            writer.add(name.encode(), Node(Kind.DIRECTORY, mode=0o755))
        for name, file in sorted(files.items()):
            writer.add_region(name.encode(), Region.of_file(file), mtime=0, mode=0o755)
        writer.close()
    return target


def import_image(docker: Daemon, archive: Path, name: str, *changes: str) -> str:
    """Make an image of a layer; its id."""
    words = [word for change in changes for word in ("--change", change)]
    return docker.docker("import", *words, str(archive), name).strip()


def contents(docker: Daemon) -> dict[str, list[str]]:
    """All that a Docker holds, to be compared with what it holds later."""
    questions = {
        "containers": ("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}"),
        "images": ("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"),
        "volumes": ("volume", "ls", "--format", "{{.Name}}"),
        "networks": ("network", "ls", "--no-trunc", "--format", "{{.ID}}"),
    }
    return {name: sorted(docker.docker(*words).splitlines()) for name, words in questions.items()}
