"""The bill of materials: valid by CycloneDX's own schema, complete, and always the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from cagebuild.digest import Digest
from cagebuild.runtime.manifest import Item, Manifest
from cagebuild.runtime.origin import Origin, SourceFile, package_url
from cagebuild.runtime.sbom import sbom

KNOWN = "5dd6cb17e4a1a549b17ce8a136eca079ead23802c2dee70bffd976ce1c590c39"
INSTALLER = Digest.of(b"installer")
VERSION = "1:1.35.0-4+deb12u1"
BUSYBOX = Origin(
    name="busybox",
    version=VERSION,
    licence="GPL-2.0-only",
    purl=package_url("deb/debian/busybox", VERSION, arch="source"),
    sources=(
        SourceFile(
            name="busybox_1.35.0.orig.tar.bz2",
            digest=Digest.of(b"orig"),
            url="https://mirror.example/pool/busybox_1.35.0.orig.tar.bz2",
        ),
        SourceFile(name="recipe", digest=Digest.of(b"recipe")),
    ),
)
LIBGCC = Origin(
    name="libgcc",
    version="12.2.0-14+deb12u1",
    licence="GPL-3.0-or-later WITH GCC-exception-3.1",
    purl=package_url("deb/debian/gcc-12", "12.2.0-14+deb12u1", arch="source"),
)
GO = Origin(
    name="go", version="1.26", licence="BSD-3-Clause", purl=package_url("golang/std", "1.26")
)
MANIFEST = Manifest(
    architecture="aarch64",
    origins=(BUSYBOX, GO, LIBGCC),
    files=(
        Item(
            path="cage/bin/busybox",
            kind="file",
            mode=0o755,
            origin=("busybox", "libgcc"),
            digest=Digest.of(b"box"),
            size=3,
        ),
        Item(
            path="cage/bin/sh",
            kind="link",
            mode=0o777,
            origin=("busybox", "libgcc"),
            target="busybox",
        ),
        Item(path="init", kind="file", mode=0o755, origin=("go",), digest=Digest.of(b"i"), size=1),
    ),
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom(MANIFEST, INSTALLER))
    return found


def component(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in document["components"] if each["name"] == name)
    return dict(found)


def test_it_is_valid() -> None:
    text = sbom(MANIFEST, INSTALLER).decode()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"SHA-256"', '"SHA-257"')) is not None


def test_the_bytes_are_known() -> None:
    assert Digest.of(sbom(MANIFEST, INSTALLER)).hex == KNOWN


def test_the_bytes_are_the_same_in_another_process() -> None:
    code = (
        "from tests.unit.runtime.test_runtime_sbom import *;"
        "print(Digest.of(sbom(MANIFEST, INSTALLER)).hex)"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == KNOWN


def test_another_installer_has_another_serial_number(document: dict[str, Any]) -> None:
    other = json.loads(sbom(MANIFEST, Digest.of(b"other")))
    assert other["serialNumber"] != document["serialNumber"]
    assert other["components"] == document["components"]


def test_it_names_the_installer_and_no_time(document: dict[str, Any]) -> None:
    assert document["metadata"].keys() == {"component"}
    whole = document["metadata"]["component"]
    assert whole["hashes"] == [{"alg": "SHA-256", "content": INSTALLER.hex}]
    assert whole["properties"] == [{"name": "cagebuild:architecture", "value": "aarch64"}]


def test_every_origin_has_version_licence_and_sources(document: dict[str, Any]) -> None:
    found = component(document, "busybox")
    assert (found["version"], found["licenses"]) == (VERSION, [{"expression": "GPL-2.0-only"}])
    assert PackageURL.from_string(found["purl"]) == PackageURL(
        type="deb",
        namespace="debian",
        name="busybox",
        version=VERSION,
        qualifiers={"arch": "source"},
    )
    assert found["externalReferences"] == [
        {
            "type": "source-distribution",
            "url": "https://mirror.example/pool/busybox_1.35.0.orig.tar.bz2",
            "comment": "busybox_1.35.0.orig.tar.bz2",
            "hashes": [{"alg": "SHA-256", "content": Digest.of(b"orig").hex}],
        }
    ]
    recipe = {"name": "cagebuild:source:recipe", "value": str(Digest.of(b"recipe"))}
    assert found["properties"] == [recipe]
    assert component(document, "go")["purl"] == "pkg:golang/std@1.26"


def test_every_file_and_link_is_there_with_what_is_in_it(document: dict[str, Any]) -> None:
    files = {each["name"]: each for each in document["components"] if each["type"] == "file"}
    assert files.keys() == {"cage/bin/busybox", "cage/bin/sh", "init"}
    assert files["cage/bin/busybox"]["hashes"][0]["content"] == Digest.of(b"box").hex
    assert files["cage/bin/busybox"]["licenses"] == [
        {"expression": "GPL-2.0-only AND GPL-3.0-or-later WITH GCC-exception-3.1"}
    ]
    assert {"name": "cagebuild:link", "value": "busybox"} in files["cage/bin/sh"]["properties"]
    depends = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert depends["file:init"] == ["origin:go"]
    assert depends["file:cage/bin/sh"] == ["origin:busybox", "origin:libgcc"]
    assert depends[str(INSTALLER)] == sorted(f"file:{name}" for name in files)
