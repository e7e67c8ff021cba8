"""Origins: what a step's parameters say of what it builds, read strictly."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from cagebuild.digest import Digest
from cagebuild.runtime.origin import (
    InvalidOriginError,
    Origin,
    SourceFile,
    licence_of,
    package_url,
)

GOOD = Origin(
    name="busybox",
    version="1:1.35.0-4+deb12u1",
    licence="GPL-2.0-only",
    purl="pkg:deb/debian/busybox@1:1.35.0-4%2Bdeb12u1?arch=source",
    sources=(
        SourceFile(
            name="pool/main/b/busybox/busybox_1.35.0.orig.tar.bz2",
            digest=Digest.of(b"orig"),
            url="https://mirror.example/busybox_1.35.0.orig.tar.bz2",
        ),
        SourceFile(name="cage.patch", digest=Digest.of(b"patch")),
    ),
)


def test_an_origin_is_the_same_again_after_json() -> None:
    assert Origin.from_json(json.loads(json.dumps(GOOD.to_json()))) == GOOD
    assert Origin.from_json(replace(GOOD, sources=()).to_json()).sources == ()


def test_package_urls_are_quoted_as_their_specification_says() -> None:
    assert package_url("deb/debian/busybox", "1:1.35.0-4+deb12u1", arch="source") == GOOD.purl
    assert package_url("golang/std", "1.26.1") == "pkg:golang/std@1.26.1"


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("Apache-2.0",), "Apache-2.0"),
        (("MIT OR Apache-2.0",), "MIT OR Apache-2.0"),
        (("GPL-2.0-only", "LGPL-2.1-or-later"), "GPL-2.0-only AND LGPL-2.1-or-later"),
        (("MIT OR ISC", "BSD-3-Clause"), "(MIT OR ISC) AND BSD-3-Clause"),
        (("A AND B", "B", "A"), "A AND B"),
        (
            ("GPL-2.0-only", "GPL-3.0-or-later WITH GCC-exception-3.1"),
            "GPL-2.0-only AND GPL-3.0-or-later WITH GCC-exception-3.1",
        ),
    ],
)
def test_the_licence_of_a_file_is_that_of_everything_in_it(
    licences: tuple[str, ...], expected: str
) -> None:
    origins = (replace(GOOD, licence=licence) for licence in licences)
    assert licence_of(tuple(origins)) == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), ""),
        (("name",), "a b"),
        (("name",), "\u00fc"),
        (("name",), None),
        (("version",), "1\n2"),
        (("version",), 1),
        (("licence",), ""),
        (("licence",), "GPL 2"),
        (("licence",), "MIT AND"),
        (("licence",), "MIT  AND ISC"),
        (("purl",), "https://example.org"),
        (("purl",), "pkg:deb/debian/busybox"),
        (("purl",), "pkg:deb/x@1 2"),
        (("sources",), None),
        (("sources",), "x"),
        (("sources",), [None]),
        (("sources", 0, "name"), "/etc/passwd"),
        (("sources", 0, "name"), "a\nb"),
        (("sources", 0, "name"), "cage.patch"),
        (("sources", 0, "digest"), "sha256:0"),
        (("sources", 0, "digest"), None),
        (("sources", 0, "url"), "http://mirror.example/x"),
        (("sources", 0, "url"), "file:///etc/passwd"),
        (("sources", 0, "url"), "https://a b"),
        (("sources", 0, "url"), 1),
        (("sources", 0, "more"), 1),
        (("more",), 1),
    ],
)
def test_what_is_no_origin_is_refused(path: tuple[Any, ...], value: object) -> None:
    data = copy.deepcopy(GOOD.to_json())
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidOriginError):
        Origin.from_json(data)


@pytest.mark.parametrize("key", GOOD.to_json())
def test_an_origin_without_one_of_its_keys_is_refused(key: str) -> None:
    data = GOOD.to_json()
    del data[key]
    with pytest.raises(InvalidOriginError, match="other keys"):
        Origin.from_json(data)


@pytest.mark.parametrize("data", [None, [], "busybox", 1])
def test_what_is_no_table_is_refused(data: object) -> None:
    with pytest.raises(InvalidOriginError):
        Origin.from_json(data)


def test_too_many_sources_are_refused() -> None:
    many = tuple(SourceFile(name=f"s{n}", digest=Digest.of(b"")) for n in range(65))
    with pytest.raises(InvalidOriginError, match="up to 64"):
        replace(GOOD, sources=many)
