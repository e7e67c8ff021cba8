"""The sample cage as its users have it: locked, built, unpacked, and answering over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import eif_by_spec
from tests.support.e2e import (
    Lab,
    Repo,
    image_file,
    installer,
    manifest,
    settings,
    shared_lab,
    unpack,
)
from tests.support.runtime import boot, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.network]

NAME = "tokeniser"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(tmp_path_factory)


@pytest.fixture(scope="module")
def service(lab: Lab) -> Repo:
    return lab.service


@pytest.fixture(scope="module")
def image(service: Repo) -> eif_by_spec.EnclaveImage:
    return image_file(service.dist(NAME) / f"{NAME}.eif")


def ask(process: int, *words: str) -> Any:
    """Ask the service from inside its own network: method, path and perhaps a body."""
    client = (
        "import json, sys, urllib.request as u\n"
        "method, path, body = sys.argv[1:]\n"
        "with u.build_opener(u.ProxyHandler({})).open(u.Request('http://127.0.0.1:8080' + path,\n"
        "        data=body.encode() or None, method=method), timeout=60) as answer:\n"
        "    sys.stdout.write(answer.read().decode())\n"
    )
    done = subprocess.run(
        ["nsenter", "-t", str(process), "-n", sys.executable, "-c", client, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_root
def test_the_image_boots_its_service_as_cage_toml_says(
    image: eif_by_spec.EnclaveImage, tmp_path: Path
) -> None:
    root = unpack(image, tmp_path)
    for name, minor in (("null", 3), ("urandom", 9)):
        os.mknod(root / "dev" / name, stat.S_IFCHR, os.makedev(1, minor))
        (root / "dev" / name).chmod(0o666)
    wanted = settings(image)
    with boot(root) as guest:
        guest.until(r"^app: listening on 127\.0\.0\.1:8080$")
        app = Path("/proc", str(guest.find(*wanted["argv"])))
        status = dict(line.split(":\t", 1) for line in (app / "status").read_text().splitlines())
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert (app / "cwd").readlink() == root / "srv/app"
        assert (app / "environ").read_text().split("\0")[:-1] == wanted["env"]

        assert ask(guest.boot, "GET", "/healthz", "") == {"status": "ok"}
        fields = {"email": "ada@example.com"}
        body = json.dumps({"fields": fields})
        tokens = ask(guest.boot, "POST", "/tokens", body)["tokens"]
        assert tokens["email"].startswith("tok_")
        check = json.dumps({"fields": fields, "tokens": tokens})
        assert ask(guest.boot, "POST", "/check", check) == {"matches": {"email": True}}
        assert guest.stop() == 0


def test_the_settings_are_those_of_cage_toml(image: eif_by_spec.EnclaveImage) -> None:
    found = settings(image)
    assert found["argv"] == ["python3", "-B", "/srv/app/server.py"]
    assert (found["uid"], found["gid"], found["groups"]) == (65534, 65534, [65534])
    assert found["workdir"] == "/srv/app"
    assert {"PORT=8080", "PYTHONUNBUFFERED=1"} < set(found["env"])
    assert found["ingress"] == [
        {
            "port": 8080,
            "health": "/healthz",
            "tls": "terminate",
            "protocol": "http",
            "proxy_protocol": False,
        }
    ]
    assert found["egress"] == []


def test_pcrs_on_the_screen_in_the_files_and_by_the_specification_are_the_same(
    service: Repo, image: eif_by_spec.EnclaveImage
) -> None:
    expected = eif_by_spec.pcrs(image)
    folder = service.dist(NAME)
    measured = json.loads((folder / "measurements.json").read_text())["Measurements"]
    assert {name: measured[name] for name in expected} == expected
    assert service.lock()["expected"] == expected
    shown = service.invoke("build")
    assert shown.pcrs() == {"//:tokeniser": expected}
    assert "as in cage.lock" in shown.out
    assert shown.err == "", "there was nothing to do, and nothing to say"
    as_json = json.loads(service.invoke("pcr", "--json").out)["//:tokeniser"]
    assert {name: as_json["Measurements"][name] for name in expected} == expected


def as_listed(number: int, entry: eif_by_spec.CpioEntry) -> dict[str, Any]:
    """A ramdisk's entry in the words of manifest.json, but for the origin."""
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
    kind = kinds[stat.S_IFMT(entry.mode)]
    listed: dict[str, Any] = {
        "ramdisk": number,
        "path": entry.name.decode(),
        "kind": kind,
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
    }
    if kind == "file":
        digest = hashlib.sha256(entry.data).hexdigest()
        listed |= {"size": len(entry.data), "sha256": digest}
    elif kind == "symlink":
        listed["target"] = entry.data.decode()
    return listed


def test_the_manifest_lists_every_entry_of_the_image_and_nothing_else(
    service: Repo, image: eif_by_spec.EnclaveImage
) -> None:
    entries = manifest(service.dist(NAME))
    assert all(entry["origin"] for entry in entries)
    listed = [{k: v for k, v in entry.items() if k != "origin"} for entry in entries]
    assert listed == [
        as_listed(number, entry)
        for number, ramdisk in enumerate(image.ramdisks)
        for entry in eif_by_spec.cpio(ramdisk).entries
    ]


def by_origin(service: Repo, origin: str, kind: str = "file") -> dict[str, str]:
    """Digests of the files of an origin by their paths in the image."""
    return {
        entry["path"].removeprefix("rootfs/"): entry["sha256"]
        for entry in manifest(service.dist(NAME))
        if entry["origin"].partition(",")[0] == origin and entry["kind"] == kind
    }


def test_the_app_the_runtime_and_the_settings_are_all_that_is_no_package(service: Repo) -> None:
    origins = {entry["origin"].partition(",")[0] for entry in manifest(service.dist(NAME))}
    packages = {origin for origin in origins if origin.startswith("package ")}
    locked = service.lock()["base"]["pins"]["packages"]
    assert packages == {f"package {each['name']} {each['version']}" for each in locked}
    assert origins - packages == {
        *("app", "runtime", "settings", "boot files", "layout", "container", "image config"),
        "generated for a Debian base",
    }
    sources = {path.name: path for path in (service.root / "app").iterdir()}
    assert by_origin(service, "app") == {
        f"srv/app/{name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sources.items()
    }
    assert by_origin(service, "settings").keys() == {"cage/etc/cage.json"}
    runtime = by_origin(service, "runtime")
    services = {
        f"cage/service/{each}/{name}"
        for each in ("app", "data")
        for name in ("finish", "log/run", "run")
    }
    programs = {"cage/bin/busybox", "cage/bin/cage-guest"}
    assert runtime.keys() == {"cage/manifest.json", *programs, *services}
    digits = installer().removeprefix("sha256:")
    with tarfile.open(service.store / "blobs" / digits[:2] / digits) as archive:
        for path, digest in runtime.items():
            stream = archive.extractfile(path)
            assert stream is not None
            assert hashlib.sha256(stream.read()).hexdigest() == digest


NOT_TAKEN = tuple(
    f"usr/share/{name}/" for name in ("bug", "doc", "doc-base", "info", "lintian", "locale", "man")
)
KEPT = re.compile("usr/share/doc/[^/]+/copyright|usr/share/locale/locale.alias")
MERGED = ("bin/", "sbin/", "lib/", "lib64/")


def merged(name: str) -> str:
    """A path of a package on a system with one /usr."""
    name = name.removeprefix("./")
    return f"usr/{name}" if name.startswith(MERGED) else name


def package_files(deb: Path) -> Iterator[tuple[str, str]]:
    """Path and digest of every regular file in a package, as dpkg-deb reads it."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as dpkg,
        tarfile.open(fileobj=dpkg.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isreg():
                stream = archive.extractfile(member)
                assert stream is not None
                yield merged(member.name), hashlib.sha256(stream.read()).hexdigest()
    assert dpkg.returncode == 0


def test_every_file_of_a_package_is_there_with_its_content_and_named_as_its_own(
    service: Repo, lab: Lab
) -> None:
    for pin in service.lock()["base"]["pins"]["packages"]:
        deb = lab.mirror_blob(pin["sha256"])
        ours = by_origin(service, f"package {pin['name']} {pin['version']}")
        status = ours.pop(f"var/lib/dpkg/status.d/{pin['name']}")
        assert status
        ours.pop("etc/ssl/certs/ca-certificates.crt", None)
        theirs = dict(package_files(deb))
        taken = {
            name: digest
            for name, digest in theirs.items()
            if not name.startswith(NOT_TAKEN) or KEPT.fullmatch(name)
        }
        assert ours == taken, pin["name"]


FORMS = ("oci", "oci-archive", "docker-archive")


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_image_converts_to_the_same_pcrs(
    service: Repo, image: eif_by_spec.EnclaveImage, tmp_path: Path, form: str
) -> None:
    target = tmp_path / "exported"
    service.invoke("export", "--format", form, "--output", str(target))
    (init,) = (
        entry.data for entry in eif_by_spec.cpio(image.ramdisks[0]).entries if entry.name == b"init"
    )
    parts = {
        "kernel": image.only(eif_by_spec.KERNEL),
        "cmdline": image.only(eif_by_spec.CMDLINE),
        "init": init,
    }
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    converted = service.invoke(
        *("eif", "--image", str(target), "--kernel", str(tmp_path / "kernel")),
        *("--cmdline-file", str(tmp_path / "cmdline"), "--init", str(tmp_path / "init")),
        *("--output", str(tmp_path / "converted.eif"), "--json"),
    )
    expected = eif_by_spec.pcrs(image)
    said = json.loads(converted.out)["Measurements"]
    assert {name: said[name] for name in expected} == expected
    assert eif_by_spec.pcrs(image_file(tmp_path / "converted.eif")) == expected


def test_describe_says_what_the_image_is(service: Repo, image: eif_by_spec.EnclaveImage) -> None:
    file = f"dist/{NAME}/{NAME}.eif"
    said = json.loads(service.invoke("describe", file, "--json").out)
    text = service.invoke("describe", file).out
    for name, value in eif_by_spec.pcrs(image).items():
        assert value in json.dumps(said)
        assert name in text
        assert value in text
