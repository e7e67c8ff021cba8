"""Names of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagebuild.errors import ResolveError
from cagebuild.image.reference import Reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian:1", "docker.io/library/debian:1"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (
            "registry.example/a/b/c_d/e__f/g-h.i:V1.0-x",
            "registry.example/a/b/c_d/e__f/g-h.i:V1.0-x",
        ),
        ("Registry.Example:443/app", "registry.example:443/app:latest"),
        ("app:5000", "docker.io/library/app:5000"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, full: str) -> None:
    parsed = Reference.parse(text)
    assert str(parsed) == full
    assert Reference.parse(full) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "@" + DIGEST,
        "Debian",
        "debian:",
        "debian:-x",
        "debian@",
        "debian@sha256:00",
        "debian@md5:" + "0" * 32,
        f"debian@{DIGEST}@{DIGEST}",
        "a b",
        "a//b",
        "/a",
        "a/",
        "../a",
        "registry.example/../a",
        "registry.example/a/./b",
        "registry.example:/a",
        "registry.example:0/a",
        "registry.example:65536/a",
        "registry.example:99999/a",
        "user@registry.example/a",
        "user:secret@registry.example/a",
        "user:sec/secret@registry.example/a",
        "https://user:secret@registry.example/a",
        "https://registry.example/a",
        "-bad.example/a",
        "registry..example/a",
        "[::1/a",
        "registry.example/a?b",
        "registry.example/a#b",
        "registry.example/a%2fb",
        "régistry.example/a",
        "debian:\N{ARABIC-INDIC DIGIT ONE}",
        "debian\n",
        "a" * 2000,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ResolveError, match="not an image reference") as caught:
        Reference.parse(text)
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message


@given(st.text(alphabet="aA0.-_:/@[]", max_size=60))
def test_whatever_is_read_reads_the_same_again(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except ResolveError:
        return
    assert Reference.parse(str(parsed)) == parsed
    location = Reference.of_location(parsed.location)
    assert (location.registry, location.repository) == (parsed.registry, parsed.repository)


@pytest.mark.parametrize(
    "location", ["oci://registry.example:5000/a/b", "oci://docker.io/library/a"]
)
def test_a_location_of_blobs(location: str) -> None:
    assert Reference.of_location(location).location == location


@pytest.mark.parametrize(
    "location",
    [
        "oci:registry.example/a",
        "oci://registry.example",
        "oci:///a",
        "oci://user:secret@registry.example/a",
        "oci://registry.example/a:tag",
        "oci://registry.example/A",
        "https://registry.example/a",
    ],
)
def test_what_is_no_location_of_blobs_is_refused(location: str) -> None:
    with pytest.raises(ResolveError, match="not a") as caught:
        Reference.of_location(location)
    assert "secret" not in caught.value.render()
