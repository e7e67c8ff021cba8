"""The kernel out of its package, for both architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from cagebuild.debian.kernel import extract
from cagebuild.errors import ImageError
from tests.support.debian import file, hard_link, make_deb, symlink

if TYPE_CHECKING:
    from pathlib import Path

BZIMAGE = bytes(0x1FE) + b"\x55\xaa\0\0HdrS" + bytes(5000)
ARM64 = b"MZ" + bytes(54) + b"ARM\x64" + bytes(5000)


def kernel(tmp_path: Path, architecture: Literal["x86_64", "aarch64"], deb: bytes) -> bytes:
    (tmp_path / "kernel.deb").write_bytes(deb)
    out = tmp_path / "kernel"
    extract(tmp_path / "kernel.deb", architecture, scratch=tmp_path, kernel=out)
    return out.read_bytes()


def test_the_kernel_is_taken_out(tmp_path: Path) -> None:
    deb = make_deb("k", file("./boot/config-6.1", b""), file("./boot/vmlinuz-6.1", BZIMAGE))
    assert kernel(tmp_path, "x86_64", deb) == BZIMAGE
    deb = make_deb("k", file("./boot/vmlinuz-6.1", ARM64), architecture="arm64")
    assert kernel(tmp_path, "aarch64", deb) == ARM64


@pytest.mark.parametrize(
    ("wrong", "architecture", "deb", "reason"),
    [
        ("no kernel", "x86_64", make_deb("k", file("./boot/x")), "0 kernels"),
        (
            "two kernels",
            "x86_64",
            make_deb("k", file("./boot/vmlinuz-1", BZIMAGE), file("./boot/vmlinuz-2", BZIMAGE)),
            "2 kernels",
        ),
        (
            "a link for a kernel",
            "x86_64",
            make_deb("k", symlink("./boot/vmlinuz-1", "/etc/shadow")),
            "0 kernels",
        ),
        (
            "a hard link for a kernel",
            "x86_64",
            make_deb("k", file("./x", BZIMAGE), hard_link("./boot/vmlinuz-1", "./x")),
            "0 kernels",
        ),
        (
            "a kernel for the other architecture",
            "x86_64",
            make_deb("k", file("./boot/vmlinuz-1", ARM64), architecture="arm64"),
            "not for x86_64",
        ),
        (
            "a kernel that is no bzImage",
            "x86_64",
            make_deb("k", file("./boot/vmlinuz-1", ARM64)),
            "not a bzImage",
        ),
        (
            "a kernel that is compressed",
            "aarch64",
            make_deb("k", file("./boot/vmlinuz-1", b"\x1f\x8b" * 500), architecture="arm64"),
            "not an uncompressed arm64 Image",
        ),
        (
            "an empty kernel",
            "aarch64",
            make_deb("k", file("./boot/vmlinuz-1", b""), architecture="arm64"),
            "not an uncompressed arm64 Image",
        ),
    ],
)
def test_a_package_is_refused_that_has(
    tmp_path: Path,
    wrong: str,
    architecture: Literal["x86_64", "aarch64"],
    deb: bytes,
    reason: str,
) -> None:
    with pytest.raises(ImageError, match=reason):
        kernel(tmp_path, architecture, deb)
    assert not (tmp_path / "kernel").exists()
