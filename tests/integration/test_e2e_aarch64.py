"""A cage for the other processor, from Debian's packages for it, built on this machine."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from cagebuild.runtime import host_architecture
from tests.support import eif_by_spec
from tests.support.e2e import Lab, Repo, image_file, installer, manifest, rootfs, shared_lab

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture

pytestmark = [pytest.mark.integration, pytest.mark.network]

MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of the ELF header: EM_X86_64, EM_AARCH64."""


def here() -> Architecture:
    """This machine's."""
    return "x86_64" if host_architecture() == "x86_64" else "aarch64"


def other() -> Architecture:
    """Not this machine's."""
    return "aarch64" if here() == "x86_64" else "x86_64"


def cage(architecture: Architecture) -> str:
    """One package, the runtime built from source, Debian's kernel."""
    return f"""\
[cage]
name = "site"

[base]
debian = {{ suite = "bookworm", packages = ["busybox-static"] }}

[app]
command = ["/bin/busybox", "httpd", "-f"]

[epoch]
policy = "zero"

[enclave]
architecture = "{architecture}"
boot = "debian"

[runtime]
installer = "{installer(architecture)}"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def built(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    repo = Repo(tmp_path_factory.mktemp("other") / "repo", lab.store)
    repo.write("cage.toml", cage(other()))
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    assert "as in cage.lock" in repo.invoke("build").out
    return repo


def machine(data: bytes) -> int:
    """Which processor an ELF program is for."""
    assert data[:4] == b"\x7fELF"
    found: int = struct.unpack_from("<H", data, 18)[0]
    return found


def test_everything_that_runs_is_for_that_processor(built: Repo) -> None:
    image = image_file(built.dist("site") / "site.eif")
    wanted = MACHINES[other()]
    assert image.flags == (1 if other() == "aarch64" else 0)
    kernel = image.only(eif_by_spec.KERNEL)
    if other() == "aarch64":
        assert kernel[56:60] == b"ARM\x64", "an uncompressed Image"
    else:
        assert kernel[0x202:0x206] == b"HdrS", "a bzImage"
    assert len(kernel) > 5_000_000
    (init,) = (e for e in eif_by_spec.cpio(image.ramdisks[0]).entries if e.name == b"init")
    assert machine(init.data) == wanted
    files = rootfs(image)
    assert machine(files["cage/bin/cage-guest"].data) == wanted
    programs = {name: e.data for name, e in files.items() if e.data[:4] == b"\x7fELF"}
    assert "usr/bin/busybox" in programs
    assert {name for name, data in programs.items() if machine(data) != wanted} == set()


def test_the_lock_the_packages_and_the_reader_agree(built: Repo) -> None:
    lock = built.lock()
    assert lock["architecture"] == other()
    (pin,) = lock["base"]["pins"]["packages"]
    debian = {"aarch64": "arm64", "x86_64": "amd64"}[other()]
    assert pin["filename"].endswith(f"_{debian}.deb")
    assert other() in built.invoke("describe", "dist/site/site.eif").out
    image = image_file(built.dist("site") / "site.eif")
    assert lock["expected"] == eif_by_spec.pcrs(image)
    assert len(manifest(built.dist("site"))) == sum(
        len(eif_by_spec.cpio(ramdisk).entries) for ramdisk in image.ramdisks
    )


def test_another_processor_needs_another_lock_and_another_installer(built: Repo) -> None:
    clone = built.clone(built.root.parent / "clone")
    clone.write("cage.toml", cage(other()).replace(f'"{other()}"', f'"{here()}"'))
    assert "invoke lock //:site" in clone.invoke("build", code=21).err
    refused = clone.invoke("lock", code=20)
    assert installer(other()) in refused.err
    assert installer(here()) in refused.err
    assert "invoke lock --update runtime //:site" in refused.err
    clone.invoke("lock", "--update", "runtime")
    assert installer(here()) in (clone.root / "cage.toml").read_text()
    assert clone.lock()["architecture"] == here()
    assert "as in cage.lock" in clone.invoke("pcr").out
