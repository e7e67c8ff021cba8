"""Nothing hidden: an image file is the app's image and what the installer's manifest lists.

Shown from ``dist/<name>/manifest.json``, which other tests hold to the bytes of the image file.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.digest import Digest
from tests.support import injected
from tests.support.e2e import (
    OWN_BOOT,
    Lab,
    Repo,
    image_file,
    installer,
    manifest,
    rootfs,
    shared_lab,
)
from tests.support.installers import written

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CAGES = '[workspace]\ncages = ["with", "without"]\nmirrors = ["file://{mirror}"]\n'
CAGE = """\
{runtime}
[cage]
name = "{name}"

[base]
{base}

[app]
command = ["/srv/run", "--serve"]

[[app.files]]
source = "src"
destination = "/srv"

[epoch]
policy = "zero"

{boot}"""
SCRATCH = "scratch = true"
DEBIAN = 'debian = { suite = "bookworm", packages = ["busybox-static"] }'


def pair(repo: Repo, mirror: Path, digest: str, base: str) -> Repo:
    """One app in two cages, ``with`` the runtime and ``without``; locked and built."""
    runtimes = {
        "with": f'runtime = {{ installer = "{digest}", url = "http://127.0.0.1:9" }}\n',
        "without": "runtime = false\n",
    }
    repo.boot()
    repo.write("cage.toml", CAGES.format(mirror=mirror))
    for name, runtime in runtimes.items():
        text = CAGE.format(runtime=runtime, name=name, base=base, boot=OWN_BOOT)
        repo.write(f"{name}/cage.toml", text)
        repo.write(f"{name}/src/run", b"the app's program\n", mode=0o755)
        repo.write(f"{name}/src/data/file", b"the app's data\n")
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    repo.invoke("build")
    return repo


def check(folder: Path, name: str, archive: Path) -> list[dict[str, Any]]:
    """Below ``/cage`` is what the installer lists and the cage's settings; the cage's entries."""
    entries = manifest(folder)
    settings = rootfs(image_file(folder / f"{name}.eif"))["cage/etc/cage.json"].data
    assert injected.injected(entries) == injected.expected(archive, settings)
    return entries


def compare(repo: Repo, archive: Path) -> None:
    """All but ``/cage`` is as it is without the runtime, and so is what boots."""
    entries = check(repo.dist("with"), "with", archive)
    plain = manifest(repo.dist("without"))
    assert injected.injected(plain) == {}
    assert injected.others(entries) == injected.others(plain)
    assert any(entry["path"] == "rootfs/srv/run" for entry in injected.others(entries))
    mine, theirs = injected.outside(entries), injected.outside(plain)
    assert mine.keys() == theirs.keys()
    # Only what is run first differs: `cage-guest boot` in the place of the app.
    assert {path for path in mine if mine[path] != theirs[path]} == {(1, "cmd")}


def test_an_installer_with_links_and_services_is_all_that_is_injected(tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    digest = Digest.of_file(made)
    shutil.copyfile(made, mirror / digest.hex)
    repo = pair(Repo(tmp_path / "repo", tmp_path / "store"), mirror, str(digest), SCRATCH)
    compare(repo, made)
    found = injected.injected(manifest(repo.dist("with")))
    assert found["cage/bin/sh"] == ("symlink", "0777", "busybox")
    assert "cage/service/app/run" in found
    origins = {entry["path"]: entry["origin"] for entry in manifest(repo.dist("with"))}
    assert origins["rootfs/cage/bin/sh"] == "runtime, from busybox 1:1.35.0-4+deb12u1"
    assert origins["rootfs/cage/manifest.json"] == "runtime"


# With this version's own installer


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.mark.network
def test_the_sample_cage_holds_what_the_installer_lists(lab: Lab) -> None:
    entries = check(lab.service.dist("tokeniser"), "tokeniser", lab.mirror_blob(installer()))
    assert any(entry["path"].startswith("rootfs/srv/app") for entry in injected.others(entries))


@pytest.mark.network
def test_this_versions_installer_leaves_the_apps_image_as_it_is(lab: Lab, tmp_path: Path) -> None:
    _ = lab.runtime
    archive = lab.mirror_blob(installer())
    repo = pair(Repo(tmp_path / "repo", lab.store), lab.mirror, installer(), DEBIAN)
    compare(repo, archive)
