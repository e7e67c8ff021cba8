"""One layer out of packages: the same bytes in any order, and all that a service needs."""

from __future__ import annotations

import json
import os
import tarfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cagebuild.debian.base import Named, build
from cagebuild.errors import ImageError
from cagebuild.steps import debian_base
from tests.support.debian import file, folder, hard_link, make_deb, symlink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Base(NamedTuple):
    """A layer that was built, opened by the standard library."""

    raw: bytes
    entries: Mapping[str, tarfile.TarInfo]
    contents: Mapping[str, bytes]
    origins: Mapping[str, str]


def base(tmp_path: Path, debs: Mapping[str, bytes], *, reverse: bool = False) -> Base:
    scratch = tmp_path / "scratch"
    scratch.mkdir(parents=True)
    named = []
    for name, content in sorted(debs.items(), reverse=reverse):
        path = tmp_path / f"{name}.deb"
        path.write_bytes(content)
        named.append(Named(name, "1.0", path))
    layer, origins = tmp_path / "layer.tar", tmp_path / "origins.json"
    build(named, scratch=scratch, layer=layer, origins=origins)
    with tarfile.open(layer, "r:") as archive:
        entries = {info.name: info for info in archive.getmembers()}
        contents = {
            name: stream.read()
            for name, info in entries.items()
            if info.isreg() and (stream := archive.extractfile(info))
        }
    return Base(layer.read_bytes(), entries, contents, json.loads(origins.read_text()))


APP = make_deb("app", file("./usr/bin/app", b"#!", mode=0o755), version="1.0")


def test_the_same_packages_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    debs = {
        "app": APP,
        "lib": make_deb("lib", folder("./lib"), file("./lib/x.so", b"elf")),
        "tool": make_deb("tool", file("./bin/a", b"a"), hard_link("./bin/b", "./bin/a")),
        "base-files": make_deb("base-files", folder("./usr/bin"), folder("./tmp", 0o1777)),
    }
    one = base(tmp_path / "one", debs)
    old = os.umask(0o077)
    try:
        other = base(tmp_path / "other", debs, reverse=True)
    finally:
        os.umask(old)
    assert one.raw == other.raw
    assert one.origins == other.origins


def test_entries_are_sorted_and_each_is_below_a_folder_that_came_before(tmp_path: Path) -> None:
    made = base(tmp_path, {"app": APP})
    seen = {""}
    for name, info in made.entries.items():
        assert name.rpartition("/")[0] in seen
        if info.isdir():
            seen.add(name)
    paths = [tuple(name.split("/")) for name in made.entries]
    assert paths == sorted(paths)
    assert made.entries.keys() == made.origins.keys()


def test_what_a_base_always_has(tmp_path: Path) -> None:
    made = base(tmp_path, {"app": APP})
    shown = {
        name: f"-> {info.linkname}" if info.issym() else f"{info.mode:o}"
        for name, info in made.entries.items()
    }
    assert shown == {
        "bin": "-> usr/bin",
        "dev": "755",
        "etc": "755",
        "etc/group": "644",
        "etc/nsswitch.conf": "644",
        "etc/passwd": "644",
        "lib": "-> usr/lib",
        "lib64": "-> usr/lib64",
        "proc": "755",
        "root": "700",
        "run": "755",
        "run/lock": "1777",
        "sbin": "-> usr/sbin",
        "sys": "755",
        "tmp": "1777",
        "usr": "755",
        "usr/bin": "755",
        "usr/bin/app": "755",
        "usr/lib": "755",
        "usr/lib64": "755",
        "usr/sbin": "755",
        "var": "755",
        "var/lib": "755",
        "var/lib/dpkg": "755",
        "var/lib/dpkg/status.d": "755",
        "var/lib/dpkg/status.d/app": "644",
        "var/lock": "-> /run/lock",
        "var/run": "-> /run",
        "var/tmp": "1777",
    }
    assert all((info.uid, info.gid) == (0, 0) for info in made.entries.values())
    assert made.origins["usr/bin/app"] == "package app 1.0"
    assert made.origins["etc/passwd"] == "generated for a Debian base"


def test_arm64_has_no_lib64(tmp_path: Path) -> None:
    made = base(tmp_path, {"app": make_deb("app", architecture="arm64")})
    assert "lib64" not in made.entries


def test_accounts_are_root_and_nobody_without_base_passwd(tmp_path: Path) -> None:
    made = base(tmp_path, {"app": APP})
    users = [line.split(":") for line in made.contents["etc/passwd"].decode().splitlines()]
    assert [(user[0], user[2], user[3]) for user in users] == [
        ("root", "0", "0"),
        ("nobody", "65534", "65534"),
    ]
    groups = [line.split(":") for line in made.contents["etc/group"].decode().splitlines()]
    assert [(group[0], group[2]) for group in groups] == [("root", "0"), ("nogroup", "65534")]


def test_accounts_are_those_of_base_passwd_where_it_is_chosen(tmp_path: Path) -> None:
    made = base(
        tmp_path,
        {
            "base-passwd": make_deb(
                "base-passwd",
                file("./usr/share/base-passwd/passwd.master", b"root:*:0:0::/root:/bin/bash\n"),
                file("./usr/share/base-passwd/group.master", b"staff:*:50:\n"),
            )
        },
    )
    assert made.contents["etc/passwd"] == b"root:*:0:0::/root:/bin/bash\n"
    assert made.contents["etc/group"] == b"staff:*:50:\n"
    assert made.origins["etc/passwd"] == "package base-passwd 1.0"


def test_what_a_package_has_is_not_overwritten(tmp_path: Path) -> None:
    made = base(
        tmp_path,
        {
            "own": make_deb(
                "own",
                file("./etc/passwd", b"mine"),
                file("./etc/nsswitch.conf", b"mine"),
                folder("./root", 0o750),
                symlink("./tmp", "var/tmp"),
            )
        },
    )
    assert made.contents["etc/passwd"] == made.contents["etc/nsswitch.conf"] == b"mine"
    assert made.entries["root"].mode == 0o750
    assert made.entries["tmp"].linkname == "var/tmp"


def certificates(*names: str) -> bytes:
    return make_deb(
        "ca-certificates",
        *(
            file(f"./usr/share/ca-certificates/mozilla/{name}", f"PEM of {name}".encode())
            for name in names
        ),
    )


def test_the_bundle_has_every_certificate_in_the_order_of_names(tmp_path: Path) -> None:
    made = base(tmp_path, {"ca-certificates": certificates("b.crt", "B.crt", "ű.crt", "a.txt")})
    bundle = made.contents["etc/ssl/certs/ca-certificates.crt"].decode()
    assert bundle == "PEM of B.crt\nPEM of b.crt\nPEM of ű.crt\n"
    assert made.entries["usr/lib/ssl/cert.pem"].linkname == "/etc/ssl/certs/ca-certificates.crt"
    assert made.origins["etc/ssl/certs/ca-certificates.crt"] == "package ca-certificates 1.0"


def test_the_bundle_lands_where_openssl_leads_to(tmp_path: Path) -> None:
    openssl = make_deb(
        "openssl",
        folder("./etc/ssl/certs"),
        symlink("./usr/lib/ssl/certs", "/etc/ssl/certs"),
        symlink("./usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
    )
    made = base(tmp_path, {"ca-certificates": certificates("a.crt"), "openssl": openssl})
    assert made.origins["usr/lib/ssl/cert.pem"] == "package openssl 1.0"
    assert "etc/ssl/certs/ca-certificates.crt" in made.entries


def test_no_certificates_no_bundle(tmp_path: Path) -> None:
    assert "etc/ssl/certs/ca-certificates.crt" not in base(tmp_path, {"app": APP}).entries


def test_documentation_is_left_out_but_licences_and_links_to_them(tmp_path: Path) -> None:
    made = base(
        tmp_path,
        {
            "a": make_deb(
                "a",
                *(
                    file(f"./usr/share/{path}", b"x")
                    for path in (
                        "man/man1/a.1.gz",
                        "info/a.info",
                        "lintian/overrides/a",
                        "locale/de/LC_MESSAGES/a.mo",
                        "locale/locale.alias",
                        "doc/a/copyright",
                        "doc/a/changelog.gz",
                        "doc/a/examples/x",
                        "doc/empty/README",
                        "misc/kept",
                    )
                ),
                symlink("./usr/share/doc/b", "a"),
            )
        },
    )
    assert {name for name, info in made.entries.items() if name.startswith("usr/share/")} == {
        "usr/share/doc",
        "usr/share/doc/a",
        "usr/share/doc/a/copyright",
        "usr/share/doc/b",
        "usr/share/locale",
        "usr/share/locale/locale.alias",
        "usr/share/misc",
        "usr/share/misc/kept",
    }


def test_a_hard_link_whose_other_name_is_left_out_is_a_plain_file(tmp_path: Path) -> None:
    made = base(
        tmp_path,
        {
            "a": make_deb(
                "a",
                file("./usr/share/man/x", b"kept"),
                hard_link("./usr/share/misc/y", "./usr/share/man/x"),
            )
        },
    )
    assert made.contents["usr/share/misc/y"] == b"kept"


def test_each_package_has_its_control_file_for_scanners(tmp_path: Path) -> None:
    made = base(tmp_path, {"app": APP})
    text = made.contents["var/lib/dpkg/status.d/app"]
    assert text == b"Package: app\nVersion: 1.0\nArchitecture: amd64\n"
    assert made.origins["var/lib/dpkg/status.d/app"] == "package app 1.0"


@pytest.mark.parametrize(
    ("wrong", "debs", "reason"),
    [
        ("another version", {"app": make_deb("app", version="2.0")}, "the lock has it as app 1.0"),
        ("another name", {"app": make_deb("evil")}, "the lock has it as app 1.0"),
        (
            "two architectures",
            {"a": make_deb("a"), "b": make_deb("b", architecture="arm64")},
            "architectures amd64, arm64",
        ),
        (
            "an architecture that is not known",
            {"a": make_deb("a", architecture="i386")},
            "architectures i386",
        ),
        (
            "a file where the base needs a folder",
            {"a": make_deb("a", file("./var/lib/dpkg", b""))},
            "where a base needs the folder",
        ),
        (
            "a link where the base needs a folder",
            {"a": make_deb("a", symlink("./etc", "usr/etc"))},
            "where a base needs the folder",
        ),
        (
            "a certificate that is huge",
            {"a": make_deb("a", file("./usr/share/ca-certificates/x.crt", bytes(2_000_000)))},
            "no small file",
        ),
        (
            "a certificate that is a link",
            {"a": make_deb("a", symlink("./usr/share/ca-certificates/x.crt", "/etc/shadow"))},
            "no small file",
        ),
    ],
)
def test_packages_are_refused_that_have(
    tmp_path: Path, wrong: str, debs: Mapping[str, bytes], reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        base(tmp_path, debs)


class Context:
    """What an executor gives to the step."""

    def __init__(
        self, folder: Path, params: Mapping[str, object], inputs: Mapping[str, Path]
    ) -> None:
        self.params = params
        self.inputs = inputs
        self.hints: Mapping[str, object] = {}
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.folder = folder
        self.done = 0

    def output(self, name: str) -> Path:
        return self.folder / name

    def progress(self, done: int, total: int | None) -> None:
        assert done > self.done
        self.done = done


def test_the_step_writes_both_outputs(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_bytes(APP)
    context = Context(tmp_path, {"packages": [["app", "1.0"]]}, {"app.deb": path})
    debian_base.run(context)
    assert context.done
    assert base(tmp_path / "again", {"app": APP}).raw == (tmp_path / "layer.tar").read_bytes()
    assert json.loads((tmp_path / "origins.json").read_text())["usr/bin/app"] == "package app 1.0"
