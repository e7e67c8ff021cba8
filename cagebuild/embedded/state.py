"""A stage while it is being built: its tree, and what its config will say."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cagebuild.embedded.places import copy_tree
from cagebuild.image.config import Healthcheck, ImageConfig
from cagebuild.image.platform import OCI_ARCHITECTURE
from cagebuild.image.tree import Node, new_root

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture
    from cagebuild.embedded.scope import Scope

PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What BuildKit puts into the environment of an image that has no PATH."""
_SHELL: Final = ("/bin/sh", "-c")


@dataclass(slots=True, kw_only=True)
class State:
    """A stage."""

    root: Node
    scope: Scope
    env: list[str]
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    cmd_is_own: bool = False
    """This stage has a CMD: ENTRYPOINT takes away only one from before."""
    user: str = ""
    workdir: str = ""
    ports: set[str] = field(default_factory=set)
    volumes: set[str] = field(default_factory=set)
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    labels: dict[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = _SHELL

    def child(self, scope: Scope) -> State:
        """A stage that starts where this one ended."""
        return State(
            root=copy_tree(self.root),
            scope=scope,
            env=list(self.env),
            entrypoint=self.entrypoint,
            cmd=self.cmd,
            user=self.user,
            workdir=self.workdir,
            ports=set(self.ports),
            volumes=set(self.volumes),
            stop_signal=self.stop_signal,
            healthcheck=self.healthcheck,
            labels=dict(self.labels),
            shell=self.shell,
        )

    def set_env(self, name: str, value: str) -> None:
        """A variable of the image, in its old place if it had one."""
        text = f"{name}={value}"
        for at, old in enumerate(self.env):
            if old.partition("=")[0] == name:
                self.env[at] = text
                return
        self.env.append(text)

    def config(self, architecture: Architecture) -> ImageConfig:
        """As the image has it. Empty lists of words are none, as in the JSON of BuildKit."""
        return ImageConfig(
            architecture=OCI_ARCHITECTURE[architecture],
            os="linux",
            env=tuple(self.env),
            entrypoint=self.entrypoint or None,
            cmd=self.cmd or None,
            user=self.user,
            workdir=self.workdir,
            exposed_ports=tuple(sorted(self.ports)),
            volumes=tuple(sorted(self.volumes)),
            stop_signal=self.stop_signal,
            healthcheck=self.healthcheck,
            labels=dict(sorted(self.labels.items())),
        )


def empty(scope: Scope) -> State:
    """FROM scratch."""
    return State(root=new_root(), scope=scope, env=[PATH], workdir="/")


def of_image(root: Node, config: ImageConfig, scope: Scope) -> State:
    """FROM an image; the tree is changed from now on."""
    has_path = any(text.startswith("PATH=") for text in config.env)
    return State(
        root=root,
        scope=scope,
        env=[*config.env, *([] if has_path else [PATH])],
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        user=config.user,
        workdir=_absolute(config.workdir),
        ports=set(config.exposed_ports),
        volumes=set(config.volumes),
        stop_signal=config.stop_signal,
        healthcheck=config.healthcheck,
        labels=dict(config.labels),
        shell=_texts(config, "Shell") or _SHELL,
    )


def _absolute(path: str) -> str:
    """An image's directory. BuildKit takes one that is relative for relative to itself."""
    return "/" + posixpath.normpath(f"{path}/{path}") if path and path[0] != "/" else path


def triggers_of(config: ImageConfig) -> tuple[str, ...]:
    """The ONBUILD instructions of an image, as text."""
    return _texts(config, "OnBuild")


def _texts(config: ImageConfig, key: str) -> tuple[str, ...]:
    run = config.raw.get("config")
    value = run.get(key) if isinstance(run, dict) else None
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
