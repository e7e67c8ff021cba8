"""Cages on images: from a real registry by tag, from layouts and from archives."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.support.e2e import OWN_BOOT, Lab, Repo, image_file, rootfs, settings, shared_lab
from tests.support.images import sha256
from tests.support.registry import (
    ExampleImage,
    Pusher,
    docker_registry,
    example_image,
    example_index,
)
from tests.support.tars import Item, archive, directory, hard_link, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.registry import RunningRegistry

pytestmark = [pytest.mark.integration, pytest.mark.network]

OCI = "application/vnd.oci.image."
REPOSITORY = "team/pay"

LOWEST = archive(
    directory("etc"),
    regular("etc/passwd", b"root:x:0:0::/root:/bin/sh\npay:x:1234:1235::/home/pay:/bin/sh\n"),
    regular("etc/group", b"root:x:0:\npay:x:1235:\nvault:x:77:other,pay\n"),
    directory("opt"),
    directory("opt/old"),
    regular("opt/old/hidden", b"an opaque folder hides it"),
    regular("opt/secret", b"a whiteout removes it"),
    directory("opt/becomes-a-file"),
    regular("opt/becomes-a-file/x", b"goes with its folder"),
    regular("opt/a", b"one content, two names", mode=0o640),
    hard_link("opt/b", "opt/a"),
    directory("home/"),
    directory("home/pay", mode=0o700, uid=1234, gid=1235),
)
MIDDLE = archive(
    regular("opt/.wh.secret"),
    directory("opt/old", mode=0o750),
    regular("opt/old/.wh..wh..opq"),
    regular("opt/old/new", b"new"),
    regular("opt/becomes-a-file", b"a file now"),
)


def highest(version: str) -> bytes:
    """The layer that a release changes."""
    return archive(
        directory("usr/"),
        directory("usr/bin"),
        regular("usr/bin/pay", f"pay {version}\n".encode(), mode=0o755),
        symlink("usr/bin/pay-latest", "pay"),
        Item(name=b"usr/bin/su", data=b"set-uid", mode=0o4755),
    )


def pay_image(version: str) -> ExampleImage:
    """An image as a build server would push it: one layer each in gzip, zstd and plain."""
    tars = (LOWEST, MIDDLE, highest(version))
    blobs = (gzip.compress(tars[0], mtime=0), zstandard.compress(tars[1]), tars[2])
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {
            "Entrypoint": ["/usr/bin/pay", "--serve"],
            "Cmd": ["--port", "8080"],
            "Env": ["PATH=/usr/bin:/bin", "MODE=base", "VERSION=" + version],
            "User": "pay",
            "WorkingDir": "/var/lib/pay",
        },
        "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
    }
    encoded = json.dumps(config).encode()
    kinds = (f"{OCI}layer.v1.tar{suffix}" for suffix in ("+gzip", "+zstd", ""))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {
            "mediaType": OCI + "config.v1+json",
            "digest": sha256(encoded),
            "size": len(encoded),
        },
        "layers": [
            {"mediaType": kind, "digest": sha256(blob), "size": len(blob)}
            for kind, blob in zip(kinds, blobs, strict=True)
        ],
    }
    return ExampleImage(
        manifest=json.dumps(manifest).encode(),
        media_type=OCI + "manifest.v1+json",
        config=encoded,
        tars=tars,
        blobs=blobs,
    )


ARM = example_image("arm64")


def push(registry: RunningRegistry, tag: str, image: ExampleImage) -> None:
    """Push an image for two platforms under a tag."""
    pusher = Pusher(registry, REPOSITORY)
    pusher.image(image.digest, image)
    pusher.image(ARM.digest, ARM)
    index = example_index(("linux/arm64/v8", ARM), ("linux/amd64", image))
    pusher.manifest(tag, index, OCI + "index.v1+json")
    pusher.close()


def cage(lab: Lab, base: str) -> str:
    """A cage on a base that takes everything else from the image but one variable."""
    return f"""\
[cage]
name = "pay"

[base]
{base}

[app]
env = {{ MODE = "cage" }}

[[app.files]]
source = "src"
destination = "/etc/pay"

[epoch]
policy = "fixed"
time = 2026-01-01T00:00:00Z

{lab.runtime}
{lab.workspace}
{OWN_BOOT}"""


def pay_repo(lab: Lab, folder: Path, base: str) -> Repo:
    """A repository with one such cage, committed and not yet locked."""
    repo = Repo(folder / "repo", folder / "store")
    repo.boot()
    repo.write("src/pay.conf", "limit = 10\n")
    repo.write("cage.toml", cage(lab, base))
    repo.commit()
    return repo


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A cage that was locked and built when its tag named version 1, which now names version 2."""

    repo: Repo
    registry: RunningRegistry
    pcrs: dict[str, str]


@pytest.fixture(scope="module")
def published(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("registry")
    with docker_registry(folder / "server") as registry:
        push(registry, "1", pay_image("1"))
        repo = pay_repo(lab, folder, f'image = "{registry.host}/{REPOSITORY}:1"')
        repo.invoke("lock")
        repo.commit()
        pcrs = repo.invoke("build").pcrs()["//:pay"]
        push(registry, "1", pay_image("2"))
        yield Published(repo=repo, registry=registry, pcrs=pcrs)


def colleague(published: Published, folder: Path) -> Repo:
    """A clone of it with an empty store."""
    return published.repo.clone(folder / "clone", CAGEBUILD_STORE=str(folder / "store"))


def test_the_lock_names_what_the_tag_named(published: Published) -> None:
    pins = json.dumps(published.repo.lock()["base"]["pins"])
    image = pay_image("1")
    for blob in (image.manifest, image.config, *image.blobs, *image.tars):
        assert sha256(blob) in pins
    assert ARM.digest not in pins


def test_the_rootfs_is_what_the_layers_come_to(published: Published) -> None:
    found = rootfs(image_file(published.repo.dist("pay") / "pay.eif"))
    assert found["usr/bin/pay"].data == b"pay 1\n"
    assert found["usr/bin/pay"].mode == stat.S_IFREG | 0o755
    assert found["usr/bin/su"].mode == stat.S_IFREG | 0o4755
    assert found["usr/bin/pay-latest"].data == b"pay"
    assert "opt/secret" not in found
    assert "opt/old/hidden" not in found
    assert found["opt/old"].mode == stat.S_IFDIR | 0o750
    assert found["opt/old/new"].data == b"new"
    assert found["opt/becomes-a-file"].data == b"a file now"
    assert "opt/becomes-a-file/x" not in found
    assert not any(".wh." in name for name in found)
    assert found["opt/a"].data == b"one content, two names"
    assert found["opt/b"].mode & 0o170000 == stat.S_IFLNK, "hard links as nitro-cli has them"
    assert found["opt/b"].data == b"a"
    home = found["home/pay"]
    assert (home.mode, home.uid, home.gid) == (stat.S_IFDIR | 0o700, 1234, 1235)
    assert found["etc/pay/pay.conf"].data == b"limit = 10\n"
    assert found["var/lib/pay"].mode == stat.S_IFDIR | 0o755, "a WORKDIR that no layer has"


def test_the_settings_are_the_images_with_the_cages_on_top(published: Published) -> None:
    found = settings(image_file(published.repo.dist("pay") / "pay.eif"))
    assert found["argv"] == ["/usr/bin/pay", "--serve", "--port", "8080"]
    assert (found["uid"], found["gid"], sorted(found["groups"])) == (1234, 1235, [77, 1235])
    assert found["workdir"] == "/var/lib/pay"
    assert {"PATH=/usr/bin:/bin", "MODE=cage", "VERSION=1", "HOME=/home/pay"} == set(found["env"])


def test_a_tag_that_moved_moves_nothing(published: Published, tmp_path: Path) -> None:
    repo = colleague(published, tmp_path)
    assert repo.invoke("build").pcrs()["//:pay"] == published.pcrs
    locked = repo.invoke("lock")
    assert locked.out == "//:pay  cage.lock: nothing moved\n"
    assert repo.checkout.git("status", "--porcelain") == ""


def test_an_update_takes_what_the_tag_names_now_and_says_so(
    published: Published, tmp_path: Path
) -> None:
    repo = colleague(published, tmp_path)
    moved = repo.invoke("lock", "--update", "base").out
    assert pay_image("1").digest in moved
    assert pay_image("2").digest in moved
    built = repo.invoke("build")
    assert "as in cage.lock" in built.out
    assert built.pcrs()["//:pay"]["PCR2"] != published.pcrs["PCR2"]
    assert built.pcrs()["//:pay"]["PCR1"] == published.pcrs["PCR1"]
    assert rootfs(image_file(repo.dist("pay") / "pay.eif"))["usr/bin/pay"].data == b"pay 2\n"
    explained = repo.invoke("diff", "HEAD", "//:pay").out
    assert "rootfs/usr/bin/pay" in explained


def test_without_the_registry_the_store_is_enough_and_an_empty_one_is_not(
    lab: Lab, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "server") as registry:
        push(registry, "1", pay_image("1"))
        repo = pay_repo(lab, tmp_path, f'image = "{registry.host}/{REPOSITORY}:1"')
        repo.invoke("lock")
        expected = repo.invoke("build").pcrs()
    repo.forget()
    assert repo.invoke("build").pcrs() == expected
    assert repo.invoke("lock").out == "//:pay  cage.lock: nothing moved\n"
    repo.forget()
    empty = str(tmp_path / "empty")
    refused = repo.invoke("build", code=71, CAGEBUILD_STORE=empty)
    assert f"oci://{registry.host}/{REPOSITORY}" in refused.err
    assert "connection refused" in refused.err
    assert "help: " in refused.err
    assert not repo.dist("pay").exists()
    update = repo.invoke("lock", "--update", "base", code=30)
    assert registry.host in update.err


def oci_layout(folder: Path, image: ExampleImage, tag: str = "1") -> Path:
    """An image as a layout that skopeo or buildx would write."""
    for data in (image.manifest, image.config, *image.blobs):
        file = folder / "blobs/sha256" / sha256(data).removeprefix("sha256:")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    named = image.descriptor(annotations={"org.opencontainers.image.ref.name": tag})
    index = {"schemaVersion": 2, "manifests": [named]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def oci_archive(file: Path, image: ExampleImage) -> Path:
    """The layout in a tar."""
    layout = oci_layout(file.parent / "made", image)
    items = [
        regular(str(path.relative_to(layout)), path.read_bytes())
        for path in sorted(layout.rglob("*"))
        if path.is_file()
    ]
    file.write_bytes(archive(*items))
    shutil.rmtree(layout)
    return file


def docker_archive(file: Path, image: ExampleImage) -> Path:
    """What ``docker save`` wrote for twenty versions: plain layers in folders."""
    names = [f"{number}/layer.tar" for number in range(len(image.tars))]
    config = sha256(image.config).removeprefix("sha256:") + ".json"
    listing = [{"Config": config, "RepoTags": ["pay:1"], "Layers": names}]
    file.write_bytes(
        archive(
            *(regular(name, tar) for name, tar in zip(names, image.tars, strict=True)),
            regular(config, image.config),
            regular("manifest.json", json.dumps(listing).encode()),
        )
    )
    return file


MAKERS: dict[str, Callable[[Path, ExampleImage], Path]] = {
    "layout": oci_layout,
    "oci.tar": oci_archive,
    "docker.tar": docker_archive,
}


@pytest.mark.parametrize("form", MAKERS)
def test_an_archive_of_the_same_image_comes_to_the_same_pcrs(
    published: Published, lab: Lab, tmp_path: Path, form: str
) -> None:
    repo = pay_repo(lab, tmp_path, f'archive = "{form}"')
    MAKERS[form](repo.root / form, pay_image("1"))
    repo.commit()
    repo.invoke("lock")
    assert repo.invoke("build").pcrs()["//:pay"] == published.pcrs


@pytest.mark.parametrize("form", MAKERS)
def test_an_archive_that_changed_after_the_lock_is_not_used(
    lab: Lab, tmp_path: Path, form: str
) -> None:
    repo = pay_repo(lab, tmp_path, f'archive = "{form}"')
    MAKERS[form](repo.root / form, pay_image("1"))
    repo.commit()
    repo.invoke("lock")
    before = repo.invoke("build").pcrs()
    if form == "layout":
        shutil.rmtree(repo.root / form)
    MAKERS[form](repo.root / form, pay_image("2"))
    repo.commit()
    for command in ("build", "pcr", "check", "plan"):
        stale = repo.invoke(command, code=21)
        assert form in stale.err
        assert "renew the lock: invoke lock //:pay" in stale.err
    repo.invoke("lock")
    after = repo.invoke("build").pcrs()
    assert after["//:pay"]["PCR2"] != before["//:pay"]["PCR2"]
    assert rootfs(image_file(repo.dist("pay") / "pay.eif"))["usr/bin/pay"].data == b"pay 2\n"


def test_a_missing_archive_is_told(lab: Lab, tmp_path: Path) -> None:
    repo = pay_repo(lab, tmp_path, 'archive = "nothing.tar"')
    missing = repo.invoke("lock", code=12)
    assert "base.archive names" in missing.err
    assert "nothing.tar" in missing.err


def test_a_tag_that_is_not_there_is_told(published: Published, lab: Lab, tmp_path: Path) -> None:
    reference = f"{published.registry.host}/{REPOSITORY}:none"
    repo = pay_repo(lab, tmp_path, f'image = "{reference}"')
    missing = repo.invoke("lock", code=22)
    assert reference in missing.err


def test_an_image_for_another_processor_only_is_told(
    published: Published, lab: Lab, tmp_path: Path
) -> None:
    reference = f"{published.registry.host}/{REPOSITORY}@{ARM.digest}"
    repo = pay_repo(lab, tmp_path, f'image = "{reference}"')
    refused = repo.invoke("lock", code=22)
    assert "for linux/arm64" in refused.err
    assert "enclave.architecture" in refused.err
