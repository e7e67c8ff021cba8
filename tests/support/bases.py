"""Base images for builds, in a registry on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.image.manifest import OCI_MANIFEST
from tests.support.images import Files, Json
from tests.support.registry import Pusher
from tests.support.tars import archive, directory, regular, symlink

if TYPE_CHECKING:
    from tests.support.registry import RunningRegistry

BUSYBOX = Path("/bin/busybox")
APPLETS = (
    *("cat", "chmod", "chown", "date", "dd", "echo", "env", "false", "find", "grep", "head", "id"),
    *(
        "ln",
        "ls",
        "mkdir",
        "mv",
        "rm",
        "seq",
        "sh",
        "sleep",
        "stat",
        "test",
        "touch",
        "tr",
        "true",
        "wc",
        "wget",
    ),
)


def push_busybox(
    registry: RunningRegistry, repository: str = "busybox", headers: dict[str, str] | None = None
) -> str:
    """Push an image of a static busybox that knows its repository; its reference, by digest."""
    layer = archive(
        directory("bin"),
        directory("etc"),
        directory("tmp", mode=0o1777),
        regular("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        regular("etc/group", b"root:x:0:\napp:x:1000:\n"),
        regular("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS),
    )
    files = Files()
    config: Json = {"Env": ["PATH=/bin", f"BASE={repository}"], "Cmd": ["/bin/sh"]}
    described = files.image(layer, config=config)
    pusher = Pusher(registry, repository, headers)
    try:
        for name, data in files.files.items():
            if f"sha256:{name.rpartition('/')[2]}" != described["digest"]:
                pusher.blob(data)
        manifest = files.files[f"blobs/sha256/{str(described['digest'])[7:]}"]
        pusher.manifest("latest", manifest, OCI_MANIFEST)
    finally:
        pusher.close()
    return f"{registry.host}/{repository}@{described['digest']}"
