"""What the installer's files are made from, in the words of ``cagebuild.runtime.origin``.

It is written into the installer, so nothing here may depend on the machine or the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cagebuild.recipes import pins
from cagebuild.runtime.origin import Origin, SourceFile, package_url
from cagebuild.runtime.pins import go_wheel
from cagebuild.runtime.sources import service_files, source_files, tree_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.digest import Digest

_LIBRARIES = {
    "x86_64": ("libc6-dev", "libgcc-12-dev"),
    "aarch64": ("libc6-dev-arm64-cross", "libgcc-12-dev-arm64-cross"),
}
"""Debian's packages of the C library and of gcc's, which are linked into busybox."""
_LICENCES = ("LGPL-2.1-or-later", "GPL-3.0-or-later WITH GCC-exception-3.1")


def of(architecture: str, busybox_recipe: Mapping[str, Digest]) -> dict[str, Any]:
    """The parameter ``origins`` of the step ``installer``.

    ``busybox_recipe`` has the digests of the files of ``runtime/busybox`` by name.
    """
    runtime = _own("cage-runtime", tree_digest(source_files()))
    return {
        "busybox": [
            each.to_json() for each in (_busybox(busybox_recipe), *_libraries(architecture))
        ],
        "programs": [runtime.to_json(), _go().to_json()],
        "services": [_own("cage-services", tree_digest(service_files())).to_json()],
    }


def _busybox(recipe: Mapping[str, Digest]) -> Origin:
    source = pins.sources().busybox
    archives = tuple(
        SourceFile(
            name=archive.filename.rpartition("/")[2],
            digest=archive.sha256,
            url=f"{source.mirror}/{archive.filename}",
        )
        for archive in (source.orig, source.debian)
    )
    own = tuple(
        SourceFile(name=f"runtime/busybox/{name}", digest=digest)
        for name, digest in sorted(recipe.items())
    )
    return Origin(
        name=source.name,
        version=source.version,
        licence="GPL-2.0-only",
        purl=package_url(f"deb/debian/{source.name}", source.version, arch="source"),
        sources=(*archives, *own),
    )


def _libraries(architecture: str) -> list[Origin]:
    packages = {pin.name: pin for pin in pins.toolchain().packages.packages}
    return [
        Origin(
            name=name,
            version=packages[name].version,
            licence=licence,
            purl=package_url(
                f"deb/debian/{name}", packages[name].version, arch=packages[name].architecture
            ),
            sources=(
                SourceFile(
                    name=packages[name].filename.rpartition("/")[2], digest=packages[name].sha256
                ),
            ),
        )
        for name, licence in zip(_LIBRARIES[architecture], _LICENCES, strict=True)
    ]


def _go() -> Origin:
    wheel = go_wheel(pins.BUILDS_ON)
    return Origin(
        name="go",
        version=wheel.version,
        licence="BSD-3-Clause",
        purl=package_url("golang/std", wheel.version),
        sources=(SourceFile(name=wheel.file, digest=wheel.digest),),
    )


def _own(name: str, tree: Digest) -> Origin:
    """This project's own, known by its content."""
    version = tree.hex[:12]
    return Origin(
        name=name,
        version=version,
        licence="Apache-2.0",
        purl=package_url(f"generic/{name}", version),
        sources=(SourceFile(name="runtime", digest=tree),),
    )
