"""Kernel and installer from source: what is pinned, whoever builds it."""

from __future__ import annotations

import json
import struct
import tarfile
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.nitro.bootfiles import check_kernel
from cagebuild.recipes import pins
from cagebuild.renewing import moved
from cagebuild.runtime.pins import ARCHITECTURES, PINS
from cagebuild.steps import runtime
from tests.support import made
from tests.support.steps import Context

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.config.model import Architecture

pytestmark = [pytest.mark.integration, pytest.mark.network]

_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_installer_is_the_pinned_one(architecture: str) -> None:
    assert Digest.of_file(made.installer(architecture)) == pins.installer(architecture).digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_is_the_pinned_one(architecture: Architecture) -> None:
    file = made.kernel(architecture)
    assert Digest.of_file(file) == pins.kernel(architecture).digest
    assert file.stat().st_size == pins.kernel(architecture).size
    check_kernel(file, architecture)


def programs(data: bytes) -> set[int]:
    """Kinds of segments of an ELF file."""
    start, size, count = (
        struct.unpack_from(form, data, at)[0] for form, at in (("<Q", 32), ("<H", 54), ("<H", 56))
    )
    return {struct.unpack_from("<I", data, start + n * size)[0] for n in range(count)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_program_is_of_its_architecture_and_needs_no_other_file(architecture: str) -> None:
    interpreter = 3
    with tarfile.open(made.installer(architecture)) as archive:
        found = {
            member.name: file.read()
            for member in archive
            if member.isreg() and (file := archive.extractfile(member))
        }
    elf = {name: data for name, data in found.items() if data[:4] == b"\x7fELF"}
    assert elf.keys() == {"init", "cage/bin/cage-guest", "cage/bin/busybox"}
    for data in elf.values():
        assert struct.unpack_from("<H", data, 18)[0] == _MACHINES[architecture]
        assert interpreter not in programs(data)


def test_nothing_of_the_build_is_in_the_programs(tmp_path: Path) -> None:
    split = Context(tmp_path, inputs={"installer.tar": made.installer("x86_64")})
    runtime.run(split)
    data = split.output("layer.tar").read_bytes() + split.output("init").read_bytes()
    for trace in (b"/build/", b"/in/runtime", str(made.ROOT).encode()):
        assert trace not in data


def test_what_moved_is_named_with_both_values() -> None:
    pinned = json.loads((PINS / pins.RUNTIME).read_bytes())
    changed = json.loads(json.dumps(pinned))
    changed["x86_64"]["files"]["init"] = "sha256:0"
    assert moved("runtime.json", pinned, pinned) == []
    before = pinned["x86_64"]["files"]["init"]
    said = f'runtime.json: x86_64 files init: got "sha256:0", expected "{before}"'
    assert moved("runtime.json", pinned, changed) == [said]
