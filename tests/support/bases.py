"""Base images that tests build Dockerfiles on, in a real registry on loopback."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.image.manifest import OCI_MANIFEST
from cagebuild.image.registry import resolve
from tests.support.engines import ENGINES as PROGRAMS
from tests.support.images import Files, Json
from tests.support.registry import Pusher, docker_registry
from tests.support.tars import archive, directory, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.registry import RunningRegistry

BUSYBOX = Path("/bin/busybox")
"""Debian's busybox-static."""
APPLETS = (
    "sh ash cat chmod chown cp cut date echo env find grep head hostname id ln ls mkdir mktemp mv"
    " printf pwd rm rmdir sed sleep sort stat tail tar test touch tr true false umask uname wc wget"
    " ip dd seq"
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/sbin/nologin\n"
GROUP = b"root:x:0:\napp:x:1001:\nstaff:x:50:app\n"
CONFIG: dict[str, Any] = {
    "Env": ["PATH=/usr/local/bin:/bin", "FROM_BASE=yes"],
    "Cmd": ["/bin/sh", "-c", "echo base"],
    "WorkingDir": "/work",
    "User": "app",
    "ExposedPorts": {"9090/tcp": {}},
    "Labels": {"made-for": "tests"},
    "StopSignal": "SIGINT",
}


def busybox_layer() -> bytes:
    """A root filesystem with a shell and two users."""
    return archive(
        *(directory(name) for name in ("bin/", "etc/", "home/", "root/", "work/")),
        directory("home/app/", uid=1000, gid=1001),
        directory("tmp/", mode=0o1777),
        regular("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS.split()),
        regular("etc/passwd", PASSWD),
        regular("etc/group", GROUP),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """A registry with base images in it."""

    registry: RunningRegistry

    def named(self, name: str) -> str:
        """``127.0.0.1:port/base/NAME:1``"""
        return f"{self.registry.host}/base/{name}:1"

    def by_digest(self, name: str) -> str:
        """``127.0.0.1:port/base/NAME@sha256:…``"""
        pin = resolve(self.named(name), "x86_64")
        return f"{self.registry.host}/base/{name}@{pin.manifest}"

    def push(self, name: str, *layers: bytes, config: dict[str, Any]) -> str:
        """Put an image of those layers into the registry; its name by digest."""
        return push_image(self.registry, f"base/{name}", *layers, config=config, tag="1")


def push_image(
    registry: RunningRegistry,
    repository: str,
    *layers: bytes,
    config: dict[str, Any],
    tag: str = "latest",
    history: bool = True,
    headers: dict[str, str] | None = None,
) -> str:
    """Put an image of those layers into a registry; its name by digest."""
    files = Files()
    made: list[Json] = [{"created_by": f"layer {number}"} for number in range(len(layers))]
    digest = files.image(*layers, config=config, history=made if history else None)["digest"]
    assert isinstance(digest, str)
    pusher = Pusher(registry, repository, headers)
    data = {f"sha256:{path[-64:]}": blob for path, blob in files.files.items()}
    for name, blob in data.items():
        if name != digest:
            pusher.blob(blob)
    pusher.manifest(tag, data[digest], OCI_MANIFEST)
    pusher.close()
    return f"{registry.host}/{repository}@{digest}"


def push_busybox(
    registry: RunningRegistry, repository: str = "busybox", headers: dict[str, str] | None = None
) -> str:
    """Put a small image that knows its repository, and has no history, into a registry.

    Returns its name by digest. Its user is root.
    """
    layer = archive(
        directory("bin"),
        directory("etc"),
        directory("tmp", mode=0o1777),
        regular("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        regular("etc/group", b"root:x:0:\napp:x:1000:\n"),
        regular("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS.split()),
    )
    config: Json = {"Env": ["PATH=/bin", f"BASE={repository}"], "Cmd": ["/bin/sh"]}
    return push_image(registry, repository, layer, config=config, headers=headers, history=False)


def push_kaniko(registry: RunningRegistry) -> str:
    """Put kaniko's executor into a registry, as kaniko's own image has it; its name by digest."""
    program = PROGRAMS / "kaniko/executor"
    if not program.exists():
        pytest.fail("needs kaniko's executor: run .ci/engines-kaniko")
    layer = archive(
        directory("kaniko"), regular("kaniko/executor", program.read_bytes(), mode=0o755)
    )
    config: Json = {
        "Env": ["PATH=/usr/local/bin:/kaniko", "HOME=/root", "DOCKER_CONFIG=/kaniko/.docker/"],
        "Entrypoint": ["/kaniko/executor"],
        "WorkingDir": "/workspace",
    }
    return push_image(registry, "kaniko", layer, config=config)


@contextmanager
def bases(folder: Path) -> Iterator[Bases]:
    """A registry with ``busybox``, which has a shell, and ``files``, which has none."""
    with docker_registry(folder) as registry:
        made = Bases(registry=registry)
        made.push("busybox", busybox_layer(), config=CONFIG)
        made.push("files", archive(regular("from/files", b"of an image\n")), config={})
        yield made
