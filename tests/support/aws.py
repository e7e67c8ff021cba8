"""Boot files in the place of AWS's, laid out as a server of theirs has them, and a pins file."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cagebuild.nitro.aws import Published, parse_published
from tests.support.nitro import arm_image, bzimage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture

COMMIT = "c0ffee" + "0" * 34
KERNEL_NAME: Mapping[Architecture, str] = {"x86_64": "bzImage", "aarch64": "Image"}
FILES: Mapping[Architecture, Mapping[str, bytes]] = {
    "x86_64": {
        "bzImage": bzimage(6000),
        "init": b"init for x86_64\n",
        "nsm.ko": b"module for x86_64\n",
        "cmdline": b"reboot=k panic=30 console=ttyS0\n",
    },
    "aarch64": {
        "Image": arm_image(7000),
        "init": b"init for aarch64\n",
        "nsm.ko": b"module for aarch64\n",
        "cmdline": b"reboot=k panic=30 root=/dev/ram0\n",
    },
}
"""By name in the folder of the architecture. They pass every check and boot nothing."""


def publish(folder: Path) -> Path:
    """Write all files below ``folder`` as they are published; returns it."""
    for architecture, files in FILES.items():
        place = folder / COMMIT / architecture
        place.mkdir(parents=True)
        for name, data in files.items():
            (place / name).write_bytes(data)
    return folder


def pins_file(base: str, **pcr1: str) -> bytes:
    """A file such as ``cagebuild/pins/aws.json`` for a server at ``base``."""
    document = {
        "commit": COMMIT,
        "url": base + "/{commit}/{architecture}/{name}",
        "architectures": {
            architecture: {
                "files": {
                    "kernel": _kernel(KERNEL_NAME[architecture], files),
                    "init": _other("init", files),
                    "nsm": _other("nsm.ko", files),
                    "cmdline": _other("cmdline", files),
                },
                "pcr1": pcr1.get(architecture),
            }
            for architecture, files in FILES.items()
        },
    }
    return json.dumps(document).encode()


def known(base: str, **pcr1: str) -> Published:
    """What that pins file says; a published PCR1 as ``x86_64="…"``."""
    return parse_published(pins_file(base, **pcr1))


def _kernel(name: str, files: Mapping[str, bytes]) -> dict[str, object]:
    data = files[name]
    return {"name": name, "git_blob": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


def _other(name: str, files: Mapping[str, bytes]) -> dict[str, object]:
    data = files[name]
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
