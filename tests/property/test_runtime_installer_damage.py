"""Damaged installers and source indexes: refused in words, or read as what they now say."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cagebuild.debian.sourceindex import find_source
from cagebuild.errors import ImageError, ResolveError
from cagebuild.runtime.installer import split_installer
from tests.support.debian import source_stanza
from tests.support.installers import written

FILES = {"busy_1.0.orig.tar.xz": b"o", "busy_1.0-4.debian.tar.xz": b"d"}
STANZA = source_stanza("busy", "1:1.0-4", FILES).encode()
EDITS = st.lists(
    st.tuples(st.integers(min_value=0), st.integers(min_value=0, max_value=255)), max_size=4
)


def damaged(data: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    """Some bytes changed, and the end cut off."""
    changed = bytearray(data)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed if cut is None else changed[: cut % len(changed)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A small one, so that what is changed is mostly headers and manifest.
    return written(tmp_path_factory.mktemp("good"), init=b"i")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, cut=st.none() | st.integers(min_value=0))
@example(edits=[], cut=None)
def test_a_damaged_installer_is_refused_or_what_its_manifest_says(
    good: Path, tmp_path: Path, edits: list[tuple[int, int]], cut: int | None
) -> None:
    bad, layer, init = tmp_path / "bad.tar", tmp_path / "layer.tar", tmp_path / "init"
    bad.write_bytes(damaged(good.read_bytes(), edits, cut))
    with suppress(ImageError):
        manifest = split_installer(bad, layer, init)
        with tarfile.open(layer) as archive:
            there = {member.name for member in archive if not member.isdir()}
        listed = {item.path for item in manifest.files}
        assert there == listed - {"init"} | {"cage/manifest.json"}


@settings(max_examples=300)
@given(edits=EDITS, cut=st.none() | st.integers(min_value=0))
@example(edits=[], cut=None)
def test_a_damaged_source_index_is_refused_or_names_files_of_the_pool(
    edits: list[tuple[int, int]], cut: int | None
) -> None:
    with suppress(ResolveError):
        source = find_source(damaged(STANZA, edits, cut), "busy", "trial")
        for archive in (source.orig, source.debian):
            assert ".." not in archive.filename.split("/")
            assert not archive.filename.startswith("/")
