"""A checked document becomes a Cage."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cagebuild.config import checksum
from cagebuild.config.egress import parse_rule
from cagebuild.config.keys import default
from cagebuild.config.model import (
    App,
    AppFiles,
    ArchiveBase,
    Base,
    Build,
    BuildSecret,
    Cage,
    DebianBase,
    DockerfileBase,
    Enclave,
    Epoch,
    ImageBase,
    Ingress,
    OwnBoot,
    Runtime,
    ScratchBase,
    Secrets,
    Signing,
)
from cagebuild.config.paths import Places, locate
from cagebuild.config.units import mebibytes, seconds
from cagebuild.digest import Digest

if TYPE_CHECKING:
    from cagebuild.config.paths import Scope

_UNKNOWN = Digest("sha256", "0" * 64)


def cage(document: dict[str, Any], *, file: Path, address: str, name: str, root: Path) -> Cage:
    """The Cage of a merged document that has passed every check."""
    builder = _Builder(document, Places(file.parent, root))
    made = Cage(
        name=name,
        address=address,
        file=file,
        folder=file.parent,
        base=builder.base(),
        app=builder.app(),
        runtime=builder.runtime(),
        ingress=builder.ingress(),
        egress=tuple(
            sorted(
                (parse_rule(text) for text in document.get("egress", {}).get("allow", ())),
                key=lambda rule: (rule.host, rule.port),
            )
        ),
        secrets=builder.secrets(),
        logs=document.get("logs", {}).get("forward", default("logs", "forward")),
        epoch=builder.epoch(),
        enclave=builder.enclave(),
        signing=builder.signing(),
        checksum=_UNKNOWN,
    )
    return dataclasses.replace(made, checksum=checksum.of(made, builder.places))


@cache
def debian_mirror() -> str:
    """URL of Debian's own archive."""
    pins = Path(__file__).parents[1] / "pins" / "debian.json"
    return str(json.loads(pins.read_bytes())["mirror"]).rstrip("/")


class _Builder:
    """Makes the parts of a cage. Trusts the document, but not its paths: each is located anew."""

    def __init__(self, document: dict[str, Any], places: Places) -> None:
        self.document = document
        self.places = places

    def path(self, text: str, scope: Scope) -> Path:
        return locate(text, scope, self.places)

    def base(self) -> Base:
        ((kind, value),) = self.document["base"].items()
        match kind:
            case "debian":
                return DebianBase(
                    suite=value["suite"],
                    updates=tuple(sorted(value.get("updates", ()))),
                    packages=tuple(sorted(value["packages"])),
                    components=tuple(sorted(value.get("components", _components()))),
                    mirror=value.get("mirror", debian_mirror()).rstrip("/"),
                    snapshot=value.get("snapshot"),
                )
            case "image":
                return ImageBase(reference=value)
            case "archive":
                table = value if isinstance(value, dict) else {"path": value}
                path = self.path(table["path"], "workspace")
                return ArchiveBase(path=path, name=table.get("name"))
            case "dockerfile":
                table = value if isinstance(value, dict) else {"path": value}
                keys = ("base", "dockerfile")
                return DockerfileBase(
                    path=self.path(table["path"], "workspace"),
                    context=self.path(table.get("context", default(*keys, "context")), "workspace"),
                    tracked=table.get("tracked", default(*keys, "tracked")),
                    target=table.get("target"),
                    args=tuple(sorted(table.get("args", {}).items())),
                    build=self.build(),
                )
            case "scratch":
                return ScratchBase()
            case _:
                raise ValueError(kind)

    def build(self) -> Build:
        table = self.document.get("build", {})
        secrets = (
            BuildSecret(
                id=name,
                env=entry.get("env"),
                file=self.path(entry["file"], "anywhere") if "file" in entry else None,
            )
            for name, entry in sorted(table.get("secrets", {}).items())
        )
        return Build(
            engine=table.get("engine", default("build", "engine")),
            network=table.get("network", default("build", "network")),
            secrets=tuple(secrets),
            cache_from=tuple(table.get("cache_from", ())),
            cache_to=tuple(table.get("cache_to", ())),
            kaniko=table.get("kaniko"),
        )

    def app(self) -> App:
        table = self.document.get("app", {})
        return App(
            files=tuple(self.files(entry) for entry in table.get("files", ())),
            entrypoint=_words(table, "entrypoint"),
            command=_words(table, "command"),
            user=table.get("user"),
            workdir=PurePosixPath(table["workdir"]) if "workdir" in table else None,
            env=tuple(sorted(table.get("env", {}).items())),
        )

    def files(self, entry: dict[str, Any]) -> AppFiles:
        uid, gid = (entry.get("owner") or default("app", "files", "owner")).split(":")
        mode = entry.get("mode")
        return AppFiles(
            source=self.path(entry["source"], "cage"),
            destination=PurePosixPath(entry["destination"]),
            mode=None if mode is None else int(mode, 8),
            uid=int(uid),
            gid=int(gid),
            tracked=entry.get("tracked", default("app", "files", "tracked")),
            exclude=tuple(sorted(entry.get("exclude", ()))),
        )

    def runtime(self) -> Runtime | None:
        table = self.document["runtime"]
        if table is False:
            return None
        url = table.get("url")
        return Runtime(installer=Digest.parse(table["installer"]), url=url and url.rstrip("/"))

    def ingress(self) -> tuple[Ingress, ...]:
        ways = (self.way(entry) for entry in self.document.get("ingress", ()))
        return tuple(sorted(ways, key=lambda way: way.port))

    def way(self, entry: dict[str, Any]) -> Ingress:
        tls = entry.get("tls", default("ingress", "tls"))
        spoken = entry.get("protocol", default("ingress", "protocol"))
        return Ingress(
            port=entry["port"],
            health=entry.get("health"),
            tls=tls,
            protocol=spoken if tls == "terminate" else "tcp",
            proxy_protocol=entry.get("proxy_protocol", default("ingress", "proxy_protocol")),
        )

    def secrets(self) -> Secrets:
        table = self.document.get("secrets", {})
        return Secrets(
            env=tuple(sorted(table.get("env", ()))), files=tuple(sorted(table.get("files", ())))
        )

    def epoch(self) -> Epoch:
        table = self.document.get("epoch", {})
        time = table.get("time")
        return Epoch(
            policy=table.get("policy", default("epoch", "policy")),
            time=None if time is None else seconds(time),
        )

    def enclave(self) -> Enclave:
        table = self.document.get("enclave", {})
        boot = table.get("boot", default("enclave", "boot"))
        if isinstance(boot, dict):
            located = {key: self.path(text, "workspace") for key, text in boot.items()}
            boot = OwnBoot(
                kernel=located["kernel"],
                init=located["init"],
                nsm=located.get("nsm"),
                cmdline=located["cmdline"],
            )
        return Enclave(
            architecture=table.get("architecture", default("enclave", "architecture")),
            boot=boot,
            memory_mib=mebibytes(table.get("memory", default("enclave", "memory"))),
            cpus=table.get("cpus", default("enclave", "cpus")),
        )

    def signing(self) -> Signing | None:
        table = self.document.get("signing")
        if not table:
            return None
        return Signing(
            certificate=self.path(table["certificate"], "workspace"),
            key=self.path(table["key"], "anywhere"),
        )


def _components() -> list[str]:
    node: list[str] = default("base", "debian", "components")
    return node


def _words(table: dict[str, Any], key: str) -> tuple[str, ...] | None:
    return tuple(table[key]) if key in table else None
