"""Cages that boot with AWS's files, from locking to the image, with a server in AWS's place."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild import pipeline
from cagebuild.errors import (
    BuildFailedError,
    DigestMismatchError,
    FetchError,
    LockError,
    MeasurementError,
)
from cagebuild.nitro.aws import check_pcr1
from cagebuild.pipeline import How
from cagebuild.report import reporter
from cagebuild.session import Session
from tests.support import eif_by_spec
from tests.support.aws import COMMIT, FILES, KERNEL_NAME, known, publish
from tests.support.http_server import serving
from tests.support.workspaces import CAGE, Workspace, installer, measurements, steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cagebuild.lock import Lock
    from cagebuild.nitro.pcr import Architecture
    from cagebuild.pinning import World

pytestmark = pytest.mark.integration

ROOT = """\
[workspace.defaults]
runtime = false

[workspace.defaults.epoch]
policy = "zero"
"""
"""No ``enclave.boot``: it is "aws" unless a cage says otherwise."""


class Elsewhere(Session):
    """A session for which AWS's boot files are on another server."""

    server = ""

    def world(self) -> World:
        return replace(super().world(), aws=known(self.server))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the server has."""
    return publish(tmp_path / "served")


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    with serving(folder) as url:
        yield url


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace(tmp_path, text=ROOT)
    made.add("pay")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def lock(workspace: Workspace, server: str) -> Lock:
    """What ``invoke lock //pay`` does, with the server in AWS's place."""
    session = Elsewhere(workspace.root)
    session.server = server
    how = How(reporter=reporter(io.StringIO()), jobs=1)
    ((_, _, after),) = pipeline.lock(session, session.cages(["//pay"]), how)
    return after


def set_text(workspace: Workspace, text: str) -> None:
    workspace.write("pay/cage.toml", text)
    workspace.commit()


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_a_cage_is_locked_and_built_without_a_word_about_boot_files(
    workspace: Workspace, server: str, architecture: Architecture
) -> None:
    set_text(workspace, f'{CAGE}\n[enclave]\narchitecture = "{architecture}"\n')
    locked = lock(workspace, server)
    assert locked.boot.kind == "aws"
    assert workspace.locked("//pay") == locked
    files = FILES[architecture]
    kernel = files[KERNEL_NAME[architecture]]
    assert locked.boot.pins["kernel"]["sha256"] == hashlib.sha256(kernel).hexdigest()

    workspace.ok("build")
    image = eif_by_spec.image(workspace.result("pay", "pay.eif"))
    cmdline = files["cmdline"].rstrip(b"\n")
    assert image.only(eif_by_spec.KERNEL) == kernel
    assert image.only(eif_by_spec.CMDLINE) == cmdline
    boot, app = image.ramdisks
    entries = {entry.name: entry.data for entry in eif_by_spec.cpio(boot).entries}
    assert entries == {b"dev": b"", b"init": files["init"], b"nsm.ko": files["nsm.ko"]}
    assert b"rootfs/srv/run" in {entry.name for entry in eif_by_spec.cpio(app).entries}

    pcr1 = eif_by_spec.pcr(kernel, cmdline, boot)
    assert locked.expected is not None
    assert measurements(workspace, "pay") == locked.expected
    assert locked.expected["PCR1"] == pcr1
    check_pcr1(pcr1, architecture, known=known(server, **{architecture: pcr1}))
    with pytest.raises(MeasurementError, match=f"got {pcr1}, expected {'0' * 96}"):
        check_pcr1(pcr1, architecture, known=known(server, **{architecture: "0" * 96}))


def test_pcr1_is_the_same_for_all_apps(workspace: Workspace, server: str) -> None:
    first = lock(workspace, server).expected
    workspace.write("pay/src/run", "another program\n", mode=0o755)
    workspace.commit()
    second = lock(workspace, server).expected
    assert first is not None
    assert second is not None
    assert first["PCR1"] == second["PCR1"]
    assert first["PCR2"] != second["PCR2"]


def test_awss_init_boots_a_cage_with_a_runtime(
    workspace: Workspace, tmp_path: Path, server: str
) -> None:
    """The installer's own init is for kernels that come without one."""
    (tmp_path / "installer").mkdir()
    digest = installer(tmp_path / "installer")
    with serving(tmp_path / "installer") as url:
        set_text(workspace, f'{CAGE}\n[runtime]\ninstaller = "{digest}"\nurl = "{url}"\n')
        lock(workspace, server)
        workspace.ok("build")
    boot, app = eif_by_spec.image(workspace.result("pay", "pay.eif")).ramdisks
    entries = {entry.name: entry.data for entry in eif_by_spec.cpio(boot).entries}
    assert entries[b"init"] == FILES["x86_64"]["init"]
    assert b"rootfs/cage/bin/cage-guest" in {e.name for e in eif_by_spec.cpio(app).entries}


def test_what_was_fetched_once_needs_no_server(workspace: Workspace, folder: Path) -> None:
    with serving(folder) as url:
        locked = lock(workspace, url)
    answer = workspace.ok("build")
    assert answer.pcrs() == locked.expected
    assert "fetch" not in answer.err
    workspace.write("pay/src/run", "another program\n", mode=0o755)
    workspace.commit()
    assert steps(workspace.ok("build"))["ran"]
    assert lock(workspace, url).boot == locked.boot


def test_without_the_server_an_empty_store_names_it(workspace: Workspace, folder: Path) -> None:
    with serving(folder) as url:
        lock(workspace, url)
    shutil.rmtree(workspace.store)
    answer = workspace.run("build")
    assert answer.code == 71
    assert f"{url}/{COMMIT}/x86_64/" in answer.err
    assert "connection refused" in answer.err


def test_a_mirror_by_digest_serves_an_empty_store(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    with serving(folder) as url:
        locked = lock(workspace, url)
    shutil.rmtree(workspace.store)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for data in FILES["x86_64"].values():
        (mirror / hashlib.sha256(data).hexdigest()).write_bytes(data)
    workspace.write("cage.toml", f'[workspace]\nmirrors = ["file://{mirror}"]\n\n{ROOT}')
    workspace.commit()
    assert workspace.ok("build").pcrs() == locked.expected


def test_another_init_on_the_server_stops_the_lock(
    workspace: Workspace, folder: Path, server: str
) -> None:
    (folder / COMMIT / "x86_64" / "init").write_bytes(b"INIT for x86_64\n")
    session = Elsewhere(workspace.root)
    session.server = server
    told = io.StringIO()
    how = How(reporter=reporter(told), jobs=1)
    with pytest.raises(BuildFailedError, match="fetch AWS's init"):
        pipeline.lock(session, session.cages(["//pay"]), how)
    expected = hashlib.sha256(FILES["x86_64"]["init"]).hexdigest()
    got = hashlib.sha256(b"INIT for x86_64\n").hexdigest()
    assert f"got sha256:{got}, expected sha256:{expected}" in told.getvalue()
    assert not (workspace.root / "pay/cage.lock").exists()


def test_another_kernel_on_the_server_stops_the_lock(
    workspace: Workspace, folder: Path, server: str
) -> None:
    (folder / COMMIT / "x86_64" / "bzImage").write_bytes(b"another kernel")
    with pytest.raises(DigestMismatchError, match="got git blob"):
        lock(workspace, server)
    assert not (workspace.root / "pay/cage.lock").exists()


def test_a_kernel_that_is_gone_stops_the_lock(
    workspace: Workspace, folder: Path, server: str
) -> None:
    (folder / COMMIT / "x86_64" / "bzImage").unlink()
    with pytest.raises(FetchError, match="404 not found"):
        lock(workspace, server)


def test_a_lock_moves_to_another_commit_only_when_asked(workspace: Workspace, server: str) -> None:
    before = lock(workspace, server)
    session = Elsewhere(workspace.root)
    session.server = f"{server}/."
    how = How(reporter=reporter(io.StringIO()), jobs=1)
    cages = session.cages(["//pay"])
    ((_, _, kept),) = pipeline.lock(session, cages, how)
    assert kept.boot == before.boot
    ((_, _, moved),) = pipeline.lock(session, cages, how, update=["boot"])
    assert moved.boot.pins["init"]["url"] == f"{server}/./{COMMIT}/x86_64/init"
    assert moved.expected == before.expected


def test_a_lock_with_pins_of_another_form_stops_the_build(
    workspace: Workspace, server: str
) -> None:
    lock(workspace, server)
    file = workspace.root / "pay/cage.lock"
    document = json.loads(file.read_bytes())
    document["boot"]["pins"]["kernel"]["url"] = "file:///etc/passwd"
    file.write_text(json.dumps(document))
    answer = workspace.run("build")
    assert answer.code == LockError.exit_code
    assert "invoke lock --update boot" in answer.err


def test_a_kernel_of_the_project_needs_the_runtime_for_its_init(workspace: Workspace) -> None:
    set_text(workspace, f'{CAGE}\n[enclave]\nboot = "cagebuild"\n')
    answer = workspace.run("lock")
    assert answer.code == 42
    assert '//pay: enclave.boot = "cagebuild" takes its init from the runtime' in answer.err
    assert "set runtime.installer" in answer.err
