"""Whoever serves files can refuse them, and no more: wrong bytes are told and never used."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.e2e import OWN_BOOT, Lab, Repo, installer, shared_lab
from tests.support.registry import Response, scripted_server
from tests.support.runtime import needs_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.network]

OFFLINE = ("unshare", "--net")
NOBODY_THERE = "http://127.0.0.1:9"
CAGE = """\
[cage]
name = "site"

[base]
debian = {{ suite = "bookworm", packages = ["busybox-static"] }}

[app]
command = ["/bin/busybox", "httpd", "-f"]

[epoch]
policy = "zero"

[runtime]
installer = "{installer}"
url = "{url}"

[workspace]
mirrors = [{mirrors}]

{boot}"""


def cage(url: str, *mirrors: str) -> str:
    """One package, and a runtime from ``url``."""
    listed = ", ".join(f'"{mirror}"' for mirror in mirrors)
    return CAGE.format(installer=installer(), url=url, mirrors=listed, boot=OWN_BOOT)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def locked(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Locked against Debian's mirror; its package is in the lab's mirror, too."""
    _ = lab.runtime
    folder = tmp_path_factory.mktemp("locked")
    repo = Repo(folder / "repo", lab.store)
    repo.boot()
    repo.write("cage.toml", cage(NOBODY_THERE, f"file://{lab.mirror}"))
    repo.commit()
    repo.invoke("lock")
    repo.commit()
    repo.invoke("build")
    lab.mirror_blob(package(repo)["sha256"])
    return repo


def package(repo: Repo) -> dict[str, Any]:
    """The one package of the lock."""
    (pin,) = repo.lock()["base"]["pins"]["packages"]
    found: dict[str, Any] = pin
    return found


@pytest.fixture
def fresh(locked: Repo, tmp_path: Path) -> Repo:
    """A clone with an empty store."""
    return locked.clone(tmp_path / "clone", CAGEBUILD_STORE=str(tmp_path / "store"))


@pytest.fixture
def mirror(lab: Lab, locked: Repo, tmp_path: Path) -> Path:
    """A mirror of one's own, to be damaged."""
    return shutil.copytree(lab.mirror, tmp_path / "mirror")


@needs_root
def test_a_locked_build_needs_no_network_but_a_mirror(locked: Repo, fresh: Repo) -> None:
    expected = locked.invoke("build").pcrs()
    assert fresh.invoke("build", prefix=OFFLINE).pcrs() == expected
    fresh.forget()
    fresh.write("cage.toml", cage(NOBODY_THERE))
    again = fresh.invoke("build", prefix=OFFLINE)
    assert again.pcrs() == expected, "fetched once, the store is enough"


@needs_root
def test_without_network_and_mirror_every_location_that_was_tried_is_named(fresh: Repo) -> None:
    fresh.write("cage.toml", cage("https://artifacts.invalid/runtime"))
    refused = fresh.invoke("build", "--keep-going", prefix=OFFLINE, code=71)
    pin = package(fresh)
    assert f"failed fetch {pin['name']} {pin['version']}" in refused.err
    assert pin["filename"] in refused.err
    assert "https://artifacts.invalid/runtime/" + installer().removeprefix("sha256:") in refused.err
    assert "check the network" in refused.err
    assert not fresh.dist("site").exists()


def tampered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[:-1000]


def longer(data: bytes) -> bytes:
    return data + b"more"


@needs_root
@pytest.mark.parametrize("damage", [tampered, cut, longer])
def test_a_package_that_is_not_the_locked_one_is_refused(
    fresh: Repo, mirror: Path, damage: Callable[[bytes], bytes]
) -> None:
    pin = package(fresh)
    file = mirror / pin["sha256"]
    good = file.read_bytes()
    file.write_bytes(damage(good))
    fresh.write("cage.toml", cage(NOBODY_THERE, f"file://{mirror}"))
    refused = fresh.invoke("build", prefix=OFFLINE, code=71)
    assert f"failed fetch {pin['name']} {pin['version']}" in refused.err
    assert f"{mirror}/{pin['sha256']}" in refused.err
    assert f"expected {pin['size']}" in refused.err or "wrong content: got" in refused.err
    assert not fresh.dist("site").exists()
    # Nothing of it stays: with the right file the build goes on.
    file.write_bytes(good)
    assert "as in cage.lock" in fresh.invoke("build", prefix=OFFLINE).out


def test_a_mirror_with_wrong_bytes_is_passed_over_where_another_location_has_the_right_ones(
    fresh: Repo, lab: Lab, mirror: Path
) -> None:
    file = mirror / package(fresh)["sha256"]
    file.write_bytes(tampered(file.read_bytes()))
    fresh.write("cage.toml", cage(NOBODY_THERE, f"file://{mirror}", f"file://{lab.mirror}"))
    assert "as in cage.lock" in fresh.invoke("build").out


@pytest.fixture
def asked() -> list[str]:
    """What a server was asked for."""
    return []


@pytest.fixture
def server(asked: list[str], mirror: Path) -> Iterator[str]:
    """A web server with the mirror's files below /good, and others in their place below /evil."""

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        asked.append(path)
        kind, _, name = path.removeprefix("/").partition("/")
        if not (mirror / name).is_file():
            return Response(status=404)
        data = (mirror / name).read_bytes()
        return Response(body=data if kind == "good" else b"another installer altogether")

    with scripted_server(respond) as base:
        yield base


def test_mirrors_are_asked_first_and_for_nothing_but_digests(
    fresh: Repo, server: str, asked: list[str]
) -> None:
    fresh.write("cage.toml", cage(f"{server}/evil", f"{server}/good"))
    fresh.invoke("build")
    digests = {package(fresh)["sha256"], installer().removeprefix("sha256:")}
    assert set(asked) == {f"/good/{digest}" for digest in digests}


def test_another_installer_at_the_runtimes_url_is_refused(
    fresh: Repo, server: str, mirror: Path
) -> None:
    fresh.write("cage.toml", cage(f"{server}/evil"))
    refused = fresh.invoke("build", code=71)
    assert "failed fetch runtime installer" in refused.err
    assert f"{server}/evil/" in refused.err
    assert f"expected {installer()}" in refused.err
    assert "do not trust that location" in refused.err
    fresh.write("cage.toml", cage(f"{server}/good"))
    assert "as in cage.lock" in fresh.invoke("build").out


def test_an_installer_that_is_none_is_refused_even_if_its_digest_is_locked(
    fresh: Repo, server: str, mirror: Path
) -> None:
    """Whoever writes cage.toml decides; but what is no installer can't be taken for one."""
    from tests.support.images import sha256
    from tests.support.tars import archive, regular

    evil = archive(regular("cage/bin/cage-guest", b"x", 0o755), regular("../../etc/passwd", b"x"))
    (mirror / sha256(evil).removeprefix("sha256:")).write_bytes(evil)
    text = cage(f"{server}/good").replace(installer(), sha256(evil))
    fresh.write("cage.toml", text)
    refused = fresh.invoke("lock", code=71)
    assert "failed runtime" in refused.err
    assert "a bug" not in refused.err


@pytest.mark.parametrize(
    ("key", "value"),
    [("filename", "../../../../etc/passwd"), ("name", "../../../evil"), ("sha256", "../../x")],
)
def test_a_lock_with_places_that_lead_elsewhere_is_refused_and_can_be_renewed(
    fresh: Repo, key: str, value: str
) -> None:
    """A lock comes with a pull request, so what it says is not to be trusted."""
    before = (fresh.root / "cage.lock").read_text()
    lock = fresh.lock()
    (pin,) = lock["base"]["pins"]["packages"]
    pin[key] = value
    fresh.write("cage.lock", json.dumps(lock))
    for command in ("build", "lock", "check"):
        refused = fresh.invoke(command, code=20)
        assert "//:site: cage.lock: " in refused.err
        assert value in refused.err
        assert "invoke lock --update base //:site" in refused.err
    fresh.invoke("lock", "--update", "base", "//:site")
    assert (fresh.root / "cage.lock").read_text() == before
