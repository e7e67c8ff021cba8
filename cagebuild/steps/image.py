"""The step ``image``: how the finished image is run, and the cage's settings as its last layer.

Inputs: the layers of base and app (see ``cagebuild.steps.finished``) and, for a base that is an
image, its ``config.json``. Parameters: ``epoch``, ``name``, ``origins``, ``architecture``, ``app``,
``runtime``, ``ingress``, ``egress``, ``secrets``, ``logs``. Outputs: ``config.json``, the finished
image's OCI config, and ``settings.tar``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from cagebuild.errors import ImageError
from cagebuild.image import users
from cagebuild.image.config import ImageConfig, parse_config
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.nitro.container import resolve
from cagebuild.runtime import cage_json
from cagebuild.steps import finished

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cagebuild.config.model import Architecture
    from cagebuild.step import StepContext

RUNTIME: Final = b"cage"
SETTINGS: Final = RUNTIME + b"/etc/cage.json"
ENTRYPOINT: Final = ("/cage/bin/cage-guest", "boot")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What Docker gives an image that says nothing."""


def run(context: StepContext) -> None:
    """Run the step; raises ImageError."""
    params = context.params
    origins = cast("list[str]", params["origins"])
    root = finished.tree(context.inputs, origins, cast("int", params["epoch"]))
    config = _with_app(_base_config(context), cast("dict[str, Any]", params["app"]))
    if not config.argv() or not config.argv()[0]:
        raise ImageError(
            "the image names no program to run: it has neither ENTRYPOINT nor CMD",
            hint="set app.command in cage.toml",
        )
    settings = None
    if params["runtime"]:
        _check_runtime_folder(root)
        settings = _settings(context, config, root)
        config = replace(config, entrypoint=ENTRYPOINT, cmd=None, user="")
    else:
        config = _for_plain_init(config)
    _write_layer(context.output("settings.tar"), _missing(root, config.workdir), settings)
    data = config.to_json(created=cast("int", params["epoch"]))
    context.output("config.json").write_bytes(data + b"\n")


def _base_config(context: StepContext) -> ImageConfig:
    architecture = OCI_ARCHITECTURE[cast("Architecture", context.params["architecture"])]
    file = context.inputs.get("config.json")
    if file is None:
        return ImageConfig(architecture=architecture, os="linux")
    # The layers' digests are those of the base; the finished image has one layer, made on export.
    base = replace(parse_config(file.read_bytes(), "the base image's config"), diff_ids=())
    if base.architecture != architecture:
        raise ImageError(
            f"the base image is for {base.architecture}, the enclave for {architecture}",
            hint="choose a base of the enclave's architecture, or change enclave.architecture",
        )
    return base


def _with_app(base: ImageConfig, app: dict[str, Any]) -> ImageConfig:
    """What cage.toml says on top of the base, by the rules of a Dockerfile."""
    entrypoint, command = app["entrypoint"], app["command"]
    # ENTRYPOINT takes the place of an inherited CMD too, which was made for another program.
    inherited = base.cmd if entrypoint is None else None
    return replace(
        base,
        entrypoint=base.entrypoint if entrypoint is None else tuple(entrypoint),
        cmd=inherited if command is None else tuple(command),
        user=base.user if app["user"] is None else app["user"],
        workdir=base.workdir if app["workdir"] is None else app["workdir"],
        env=_merged([_PATH], base.env, [f"{name}={value}" for name, value in app["env"]]),
    )


def _merged(*environments: Iterable[str]) -> tuple[str, ...]:
    """Later values win; a name keeps the place where it was first."""
    values = {item.partition("=")[0]: item for environment in environments for item in environment}
    return tuple(values.values())


def _check_runtime_folder(root: Node) -> None:
    if RUNTIME in (root.children or {}):
        raise ImageError(
            "the image has a /cage of its own, where the runtime has to be",
            hint="move what the image has there to another folder",
        )


def _settings(context: StepContext, config: ImageConfig, root: Node) -> bytes:
    params = context.params
    user = users.resolve(root, config.user)
    home = [f"HOME={user.home}"]
    return cage_json.settings(
        name=str(params["name"]),
        argv=config.argv(),
        uid=user.uid,
        gid=user.gid,
        groups=user.groups,
        env=_merged(home, config.env),
        workdir=config.workdir or "/",
        ingress=cast("list[cage_json.IngressPort]", params["ingress"]),
        egress=cast("list[cage_json.EgressTarget]", params["egress"]),
        secrets=cast("cage_json.Secrets", params["secrets"]),
        logs=bool(params["logs"]),
        epoch=cast("int", params["epoch"]),
    )


def _for_plain_init(config: ImageConfig) -> ImageConfig:
    """An image without the runtime: its whole argument vector as CMD, which is what init runs."""
    if config.user not in ("", "0", "root", "0:0", "root:root"):
        raise ImageError(
            f"the image's user is {config.user!r}, and without the runtime everything runs as root",
            hint="leave the runtime in (no runtime = false), or set app.user to root",
        )
    if config.workdir not in ("", "/"):
        raise ImageError(
            f"the image's working directory is {config.workdir!r}, and without the runtime it is /",
            hint='leave the runtime in (no runtime = false), or set app.workdir to "/"',
        )
    return replace(config, entrypoint=None, cmd=config.argv())


def _missing(root: Node, workdir: str) -> list[bytes]:
    """Directories that have to be made for the working directory to be there."""
    here: Node | None = root
    missing = []
    names = resolve(root, workdir) if workdir else []
    for depth, name in enumerate(names, 1):
        here = here.children.get(name) if here is not None and here.children is not None else None
        if here is None:
            missing.append(b"/".join(names[:depth]))
        elif here.kind is not Kind.DIRECTORY:
            raise ImageError(f"the working directory {workdir!r} is not a directory in the image")
    return missing


def _write_layer(file: Path, directories: list[bytes], settings: bytes | None) -> None:
    with file.open("wb") as stream:
        writer = TarWriter(stream.write)
        if settings is not None:
            region = Region.of_bytes(settings)
            node = Node(Kind.FILE, mode=0o644, size=region.size, source=region)
            writer.add(SETTINGS, node)
        for path in directories:
            writer.add(path, Node(Kind.DIRECTORY, mode=0o755))
        writer.close()
