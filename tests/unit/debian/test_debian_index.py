"""Package indexes: read lean, checked against the Release, refused when malformed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from cagebuild.debian.index import fetch_index
from cagebuild.debian.release import IndexFile, Release
from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, FetchError, ResolveError
from tests.support.debian import compress, stanza, universe

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX = (stanza("a") + "\n" + stanza("b")).encode()
PATH = "main/binary-amd64/Packages"
ROOT = "http://mirror/debian"


def release(
    files: Mapping[str, bytes], *, by_hash: bool = False, all_apart: bool = False
) -> Release:
    return Release(
        suite="trial",
        date=0,
        by_hash=by_hash,
        all_apart=all_apart,
        digest=Digest.of(b""),
        signers=("0",),
        files={
            path: IndexFile(size=len(content), digest=Digest.of(content))
            for path, content in files.items()
        },
    )


class Mirror:
    """Answers from a table, and notes what was asked."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, int]] = []

    def __call__(self, url: str, *, limit: int) -> bytes:
        path = url.removeprefix(f"{ROOT}/dists/trial/")
        self.asked.append((path, limit))
        if path not in self.files:
            raise FetchError(f"404: {url}")
        return self.files[path]


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_an_index_is_checked_and_decompressed(suffix: str) -> None:
    files = {PATH + suffix: compress(INDEX, suffix)}
    mirror = Mirror(files)
    assert fetch_index(release(files), ROOT, "main", "amd64", mirror) == [INDEX]
    assert mirror.asked == [(PATH + suffix, len(files[PATH + suffix]))]


def test_the_smaller_file_is_taken() -> None:
    files = {PATH + suffix: compress(INDEX, suffix) for suffix in (".gz", ".xz")}
    mirror = Mirror(files)
    fetch_index(release(files), ROOT, "main", "amd64", mirror)
    assert [path for path, _ in mirror.asked] == [PATH + ".xz"]


def test_by_hash_comes_first_and_the_plain_name_when_that_fails() -> None:
    packed = compress(INDEX, ".xz")
    name = f"main/binary-amd64/by-hash/SHA256/{hashlib.sha256(packed).hexdigest()}"
    described = release({PATH + ".xz": packed}, by_hash=True)
    mirror = Mirror({name: packed})
    assert fetch_index(described, ROOT, "main", "amd64", mirror) == [INDEX]
    assert [path for path, _ in mirror.asked] == [name]
    mirror = Mirror({PATH + ".xz": packed})
    assert fetch_index(described, ROOT, "main", "amd64", mirror) == [INDEX]
    assert [path for path, _ in mirror.asked] == [name, PATH + ".xz"]
    mirror = Mirror({name: b"x" * len(packed), PATH + ".xz": packed})
    assert fetch_index(described, ROOT, "main", "amd64", mirror) == [INDEX]


def test_packages_for_all_architectures_are_read_where_they_are_apart() -> None:
    everywhere = "main/binary-all/Packages"
    files = {
        PATH + ".xz": compress(INDEX, ".xz"),
        everywhere + ".xz": compress(stanza("c", architecture="all").encode(), ".xz"),
    }
    described = release(files, all_apart=True)
    assert len(fetch_index(described, ROOT, "main", "amd64", Mirror(files))) == 2
    described = release(files, all_apart=False)
    assert len(fetch_index(described, ROOT, "main", "amd64", Mirror(files))) == 1


@pytest.mark.parametrize("change", [b"x", b""])
def test_an_index_that_is_not_what_the_release_names_is_refused(change: bytes) -> None:
    packed = compress(INDEX, ".xz")
    mirror = Mirror({PATH + ".xz": packed[:-1] + change})
    with pytest.raises(DigestMismatchError, match="the Release names"):
        fetch_index(release({PATH + ".xz": packed}), ROOT, "main", "amd64", mirror)


def test_a_decompressed_index_is_checked_too_where_the_release_names_it() -> None:
    packed = compress(INDEX, ".xz")
    described = release({PATH + ".xz": packed, PATH: INDEX.replace(b"a", b"b")})
    with pytest.raises(DigestMismatchError):
        fetch_index(described, ROOT, "main", "amd64", Mirror({PATH + ".xz": packed}))


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_an_index_that_unpacks_to_more_than_the_release_says_is_refused(suffix: str) -> None:
    packed = compress(bytes(5_000_000), suffix)
    described = release({PATH + suffix: packed, PATH: INDEX})
    with pytest.raises(ResolveError, match="larger than"):
        fetch_index(described, ROOT, "main", "amd64", Mirror({PATH + suffix: packed}))


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_an_index_that_is_rubbish_is_refused(suffix: str) -> None:
    files = {PATH + suffix: b"rubbish"}
    with pytest.raises(ResolveError, match="decompressed"):
        fetch_index(release(files), ROOT, "main", "amd64", Mirror(files))


def test_a_component_that_is_not_there_is_refused_with_those_that_are() -> None:
    files = {PATH + ".xz": b"", "contrib/binary-amd64/Packages.xz": b""}
    with pytest.raises(ResolveError) as caught:
        fetch_index(release(files), ROOT, "mian", "amd64", Mirror(files))
    assert "contrib, main" in caught.value.hint


def test_the_answer_of_a_mirror_without_the_index_is_its_error() -> None:
    with pytest.raises(FetchError, match="404"):
        fetch_index(release({PATH + ".xz": b"x"}), ROOT, "main", "amd64", Mirror({}))


def test_fields_of_a_package_are_read() -> None:
    package = universe(
        stanza(
            "a",
            "1:2-3",
            pre_depends="b",
            depends="c",
            breaks="d",
            conflicts="e",
            provides="f (= 1)",
        )
    ).candidate("a")
    assert package is not None
    assert [clause[0].name for clause in package.depends] == ["b", "c"]
    assert [relation.name for relation in package.refuses] == ["e", "d"]
    assert str(package.provides[0]) == "f (= 1)"
    assert (package.name, package.version, package.size) == ("a", "1:2-3", 1000)
    assert package.filename == "pool/main/a/a/a_1%3a2-3.deb"


def test_folded_fields_are_read() -> None:
    packages = universe(
        stanza("p").replace("Version", "Provides: x,\n v,\n w\nVersion"), stanza("q")
    )
    assert [package.name for package, _ in packages.providers("w")] == ["p"]
    assert packages.names() == ["p", "q"]


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\n\n\n"])
def test_the_end_of_an_index_may_have_blank_lines(ending: str) -> None:
    packages = universe((stanza("a") + "\n" + stanza("b")).rstrip("\n") + ending)
    assert packages.names() == ["a", "b"]
    assert packages.candidate("b") is not None


GOOD = stanza("a")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("no file name", GOOD.replace("Filename:", "X:")),
        ("a file name with ..", GOOD.replace("pool/main", "pool/../..")),
        ("a file name with . as component", GOOD.replace("pool/main", "pool/.")),
        ("an absolute file name", GOOD.replace("pool/", "/pool/")),
        ("a URL as file name", GOOD.replace("pool/", "http://evil/")),
        ("a file name with a query", GOOD.replace(".deb", ".deb?x=.deb")),
        ("a file name that is no .deb", GOOD.replace(".deb", ".udeb.x")),
        ("no size", GOOD.replace("Size:", "X:")),
        ("a size of 0", GOOD.replace("1000", "0")),
        ("a negative size", GOOD.replace("1000", "-1")),
        ("a size in other digits", GOOD.replace("1000", "\u0661")),
        ("a huge size", GOOD.replace("1000", "9" * 5000)),
        ("no digest", GOOD.replace("SHA256:", "X:")),
        ("a short digest", GOOD.replace("SHA256: ", "SHA256: 0")),
        ("an upper-case digest", GOOD.replace("SHA256: ", "SHA256: A")),
        ("a version that is none", GOOD.replace("Version: 1.0", "Version: 1 0")),
        ("a field twice", GOOD + "Version: 2.0\n"),
        ("a relation that is none", GOOD + "Depends: b (\n"),
        ("alternatives in Provides", GOOD + "Provides: b | c\n"),
    ],
)
def test_a_package_is_refused_that_has(wrong: str, text: str) -> None:
    assert text != GOOD
    with pytest.raises(ResolveError, match="malformed"):
        universe(text).candidate("a")


def test_two_packages_without_a_blank_line_between_are_refused() -> None:
    with pytest.raises(ResolveError, match="malformed"):
        universe(stanza("a") + stanza("b"))


def test_what_is_wrong_with_one_package_does_not_stop_others() -> None:
    packages = universe(GOOD.replace("1000", "none"), stanza("b"))
    assert packages.candidate("b") is not None
