"""Resolving names to pins: what ``invoke lock`` does, and nothing else may do.

Each part of a lock remembers the checksum of the settings that it answers. A part whose settings
are the same keeps its pins; one whose settings changed, or that is to be updated, gets new ones.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, assert_never, get_args

from cagebuild.config.model import (
    ArchiveBase,
    DebianBase,
    DockerfileBase,
    ImageBase,
    OwnBoot,
    ScratchBase,
)
from cagebuild.digest import Digest
from cagebuild.errors import ResolveError, SourceError, UsageError
from cagebuild.lock import Lock, LockedEpoch, LockedRuntime, Pinned
from cagebuild.step import canonical
from cagebuild.workspace import inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Protocol

    from cagebuild.config.model import Base, Cage
    from cagebuild.image.registry import ImagePin
    from cagebuild.nitro.aws import Published
    from cagebuild.sources import BuildContext, SourceFile

    class Get(Protocol):
        """Fetches a small document, such as ``cagebuild.fetch.http.get``."""

        def __call__(self, url: str, *, limit: int) -> bytes:
            """The document; raises FetchError."""


Part = Literal["base", "boot", "runtime", "epoch"]
PARTS: tuple[Part, ...] = get_args(Part)
_MAX_TIME = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where new pins come from: the network, git and the environment."""

    get: Get
    last_commit: Callable[[Sequence[Path]], int | None]
    """Time of the last commit that touched one of the paths, in seconds since 1970."""
    source_date_epoch: int | None
    """The variable SOURCE_DATE_EPOCH."""
    aws: Published | None = None
    """AWS's boot files and where they are; None: what this version knows of them."""


def check_names(names: Collection[str]) -> frozenset[Part]:
    """The parts that ``names`` name; no names mean all. Raises UsageError."""
    for name in names:
        if name not in PARTS:
            raise UsageError(
                f"a lock has no part '{name}'", hint=f"the parts are: {', '.join(PARTS)}"
            )
    return frozenset(part for part in PARTS if not names or part in names)


def resolve(
    cage: Cage,
    sources: tuple[SourceFile, ...],
    *,
    context: BuildContext | None = None,
    previous: Lock | None,
    update: Collection[Part],
    world: World,
) -> Lock:
    """The lock for ``cage``: pins of ``previous`` where they still answer, new ones elsewhere.

    The expected measurements are kept as they are: whoever calls this measures and sets them.
    Raises ResolveError, FetchError, SignatureError, UnsupportedError, and SourceError.
    """
    return Lock(
        cage=cage.name,
        config=cage.checksum,
        architecture=cage.enclave.architecture,
        epoch=_epoch(cage, sources, context, previous.epoch if previous else None, update, world),
        base=_base(cage, context, previous.base if previous else None, "base" in update, world),
        boot=_boot(cage, previous.boot if previous else None, "boot" in update, world),
        runtime=_runtime(cage),
        expected=previous.expected if previous else None,
    )


def _checksum(settings: object) -> Digest:
    return Digest.of(canonical(settings))


def _pinned(
    kind: str,
    settings: object,
    pin: Callable[[], Mapping[str, Any]],
    old: Pinned | None = None,
) -> Pinned:
    """``old`` when it answers the same settings, else new pins. No ``old``: always new ones."""
    made_from = _checksum([kind, settings])
    if old is not None and old.kind == kind and old.made_from == made_from:
        return old
    return Pinned(made_from=made_from, kind=kind, pins=pin())


def _base(
    cage: Cage, context: BuildContext | None, old: Pinned | None, update: bool, world: World
) -> Pinned:
    base: Base = cage.base
    architecture = cage.enclave.architecture
    reusable = None if update else old
    match base:
        case DebianBase():
            settings = {**asdict(base), "mirror": None, "architecture": architecture}
            pinned = _pinned("debian", settings, lambda: _debian(base, cage, world), reusable)
            # Where packages come from is no part of what they are: another mirror moves no pin.
            return replace(pinned, pins={**pinned.pins, "mirror": base.mirror})
        case ImageBase():
            settings = {**asdict(base), "architecture": architecture}
            return _pinned("image", settings, lambda: _image(base, cage), reusable)
        case ArchiveBase():
            # Local and checked at every build: there is nothing to keep an old pin for.
            name = os.path.relpath(base.path, cage.folder)
            return _pinned("archive", [name, base.name, architecture], lambda: _archive(base, cage))
        case ScratchBase():
            return _pinned("scratch", None, dict)
        case DockerfileBase():
            return _dockerfile(cage, base, context, reusable)
        case _:
            assert_never(base)


def _debian(base: DebianBase, cage: Cage, world: World) -> Mapping[str, Any]:
    from cagebuild.debian.locking import lock_base

    return lock_base(base, cage.enclave.architecture, world.get).to_json()


def _image(base: ImageBase, cage: Cage) -> Mapping[str, Any]:
    from cagebuild.image.registry import resolve as resolve_image

    return resolve_image(base.reference, cage.enclave.architecture).to_json()


def _dockerfile(
    cage: Cage, base: DockerfileBase, context: BuildContext | None, old: Pinned | None
) -> Pinned:
    """Every image that the target needs. One that was pinned before stays as it was."""
    from cagebuild.dockerfile.parse import parse
    from cagebuild.dockerfile.stages import images
    from cagebuild.image.dockerfilepin import DockerfilePins
    from cagebuild.image.registry import resolve as resolve_image

    if context is None:
        raise TypeError(f"{cage.address}: no context")
    architecture = cage.enclave.architecture
    parsed = parse(context.data, context.file)
    wanted = sorted(
        {use.reference for use in images(parsed, base.target, dict(base.args), architecture)}
    )
    known: Mapping[str, ImagePin] = {}
    if old is not None and old.kind == "dockerfile" and old.made_from == _checksum(architecture):
        known = DockerfilePins.from_json(old.pins).images
    pins = DockerfilePins(
        images={name: known.get(name) or resolve_image(name, architecture) for name in wanted}
    )
    return Pinned(made_from=_checksum(architecture), kind="dockerfile", pins=pins.to_json())


def _archive(base: ArchiveBase, cage: Cage) -> Mapping[str, Any]:
    from cagebuild.image.archivepin import pin_archive

    try:
        base.path.stat()
        pin = pin_archive(base.path, name=base.name, architecture=cage.enclave.architecture)
    except OSError as error:
        raise SourceError(
            f"{cage.address}: base.archive names {base.path}, which cannot be read:"
            f" {error.strerror}",
            hint=f"put the image there or correct base.archive in {cage.file.name}",
        ) from None
    return pin.to_json()


def _boot(cage: Cage, old: Pinned | None, update: bool, world: World) -> Pinned:
    boot = cage.enclave.boot
    architecture = cage.enclave.architecture
    reusable = None if update else old
    if isinstance(boot, OwnBoot):
        return _pinned("own", None, lambda: _own_boot(boot, cage))
    match boot:
        case "debian":
            return _pinned("debian", architecture, lambda: _debian_boot(cage, world), reusable)
        case "aws":
            return _pinned("aws", architecture, lambda: _aws_boot(cage, world), reusable)
        case "cagebuild":
            return _pinned("cagebuild", architecture, lambda: _own_kernel(cage), reusable)
        case _:
            assert_never(boot)


def _debian_boot(cage: Cage, world: World) -> Mapping[str, Any]:
    from cagebuild.debian.locking import lock_kernel
    from cagebuild.nitro.cmdline import CMDLINE

    architecture = cage.enclave.architecture
    return {
        "kernel": lock_kernel(architecture, world.get).to_json(),
        "cmdline": CMDLINE[architecture],
    }


def _own_kernel(cage: Cage) -> Mapping[str, Any]:
    from cagebuild.nitro.cmdline import CMDLINE
    from cagebuild.recipes import pins

    architecture = cage.enclave.architecture
    made = pins.kernel(architecture)
    return {
        "kernel": {
            "sha256": made.digest.hex,
            "size": made.size,
            "version": pins.sources().linux_version,
        },
        "cmdline": CMDLINE[architecture],
    }


def _aws_boot(cage: Cage, world: World) -> Mapping[str, Any]:
    from cagebuild.nitro.aws import lock_aws

    return lock_aws(cage.enclave.architecture, world.get, known=world.aws).to_json()


def _own_boot(boot: OwnBoot, cage: Cage) -> Mapping[str, Any]:
    files = {"kernel": boot.kernel, "init": boot.init, "nsm": boot.nsm, "cmdline": boot.cmdline}
    return {
        name: {
            "path": os.path.relpath(file, cage.folder),
            "sha256": _digest_of(file, f"enclave.boot.{name}", cage).hex,
        }
        for name, file in files.items()
        if file is not None
    }


def _digest_of(file: Path, key: str, cage: Cage) -> Digest:
    try:
        return Digest.of_file(file)
    except OSError as error:
        raise SourceError(
            f"{cage.address}: {key} names {file}, which cannot be read: {error.strerror}",
            hint=f"put the file there or correct {key} in {cage.file.name}",
        ) from None


def _runtime(cage: Cage) -> LockedRuntime | None:
    if cage.runtime is None:
        return None
    return LockedRuntime(
        installer=cage.runtime.installer,
        name=f"runtime installer for {cage.enclave.architecture}",
    )


def source_digest(sources: tuple[SourceFile, ...]) -> Digest:
    """One digest over names, contents and attributes of the app's files."""
    return _checksum([[file.facts(), str(file.digest)] for file in sources])


def _facts(context: BuildContext | None) -> list[str]:
    """Digests of a Dockerfile and its context, where there are such."""
    return [str(Digest.of(context.data)), str(source_digest(context.files))] if context else []


def _epoch(
    cage: Cage,
    sources: tuple[SourceFile, ...],
    context: BuildContext | None,
    old: LockedEpoch | None,
    update: Collection[Part],
    world: World,
) -> LockedEpoch:
    """The time by policy. One of a commit stays as long as the files that it was taken for do."""
    policy = cage.epoch.policy
    made_from = _checksum([str(cage.checksum), str(source_digest(sources)), *_facts(context)])
    match policy:
        case "zero":
            time = 0
        case "fixed":
            time = cage.epoch.time or 0
        case "env":
            time = _environment_time(cage, old, world)
        case "commit":
            if old and old.policy == policy and old.inputs == made_from and "epoch" not in update:
                return old
            time = _commit_time(cage, world)
        case _:
            assert_never(policy)
    if not 0 <= time <= _MAX_TIME:
        raise ResolveError(
            f"{cage.address}: the time {time} of epoch policy '{policy}' cannot be written to a"
            f" ramdisk: it has to be between 0 and {_MAX_TIME} seconds since 1970"
        )
    return LockedEpoch(policy=policy, time=time, inputs=made_from)


def _environment_time(cage: Cage, old: LockedEpoch | None, world: World) -> int:
    if world.source_date_epoch is not None:
        return world.source_date_epoch
    if old and old.policy == "env":
        return old.time
    raise ResolveError(
        f"{cage.address}: epoch.policy is 'env', and SOURCE_DATE_EPOCH is not set",
        hint="set it: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) invoke lock",
    )


def _commit_time(cage: Cage, world: World) -> int:
    time = world.last_commit(inputs(cage))
    if time is None:
        raise ResolveError(
            f"{cage.address}: epoch.policy is 'commit', and no commit has the cage's files",
            hint='commit them first, or set epoch.policy = "zero" or "fixed"',
        )
    return time
