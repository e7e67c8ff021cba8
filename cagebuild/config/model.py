"""What a cage.toml says, as frozen values. Made only by ``cagebuild.config.load``, always valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path, PurePosixPath

    from cagebuild.digest import Digest

Architecture = Literal["x86_64", "aarch64"]
EpochPolicy = Literal["commit", "fixed", "zero", "env"]
TlsMode = Literal["passthrough", "terminate"]
Protocol = Literal["http", "h2c", "tcp"]
EngineChoice = Literal["auto", "embedded", "buildkit", "buildah", "kaniko"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianBase:
    """Debian packages, resolved to their closure and unpacked without maintainer scripts."""

    suite: str
    packages: tuple[str, ...]
    """``name``, ``name:architecture`` or ``name=version``. Sorted."""
    components: tuple[str, ...]
    mirror: str
    """URL of the archive, without a trailing slash."""
    snapshot: str | None
    """``20260711T000000Z``: read the index as it was then, from Debian's snapshot archive."""
    updates: tuple[str, ...] = ()
    """Further suites, as ``bookworm-security``: the highest version of a package is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    """An image in a registry: ``host/repository:tag`` or ``…@sha256:…``."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveBase:
    """An OCI layout (folder or tar) or a docker-archive in the cage's folder."""

    path: Path
    """Absolute; inside the workspace."""
    name: str | None
    """Which image of an archive that holds several (``repository:tag`` or ref name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSecret:
    """What a RUN may read with ``--mount=type=secret,id=…``. Exactly one of the others is given."""

    id: str
    env: str | None
    """The variable of the caller's environment that holds it."""
    file: Path | None
    """Absolute; may lie anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How a Dockerfile is built. Only ``network`` and the secrets' ids can change the result."""

    engine: EngineChoice
    network: bool
    """Whether RUN may use the network."""
    secrets: tuple[BuildSecret, ...]
    """Sorted by id."""
    cache_from: tuple[str, ...]
    cache_to: tuple[str, ...]
    """Both as BuildKit has them: ``type=registry,ref=…``."""
    kaniko: str | None
    """The executor's image, by digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerfileBase:
    """The app's own Dockerfile."""

    path: Path
    context: Path
    """Absolute path of the folder that COPY and ADD read from."""
    tracked: bool
    """True: the context is what git tracks. False: everything in the folder."""
    target: str | None
    args: tuple[tuple[str, str], ...]
    build: Build


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchBase:
    """Nothing."""


Base = DebianBase | ImageBase | ArchiveBase | DockerfileBase | ScratchBase


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFiles:
    """Files of the cage's folder that are added to the image."""

    source: Path
    """Absolute path of a file or folder inside the cage's folder."""
    destination: PurePosixPath
    """Absolute path in the image. A folder's contents go below it; a file is put exactly there."""
    mode: int | None
    """Permission bits of regular files; None: 0755 if git has the file as executable, else 0644."""
    uid: int
    gid: int
    tracked: bool
    """True: what git tracks. False: everything in the folder, for files made before the build."""
    exclude: tuple[str, ...]
    """Glob patterns, relative to ``source``, that are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What is added to the base and how it is run. None means: as the base image has it."""

    files: tuple[AppFiles, ...]
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    user: str | None
    workdir: PurePosixPath | None
    env: tuple[tuple[str, str], ...]
    """Sorted by name; added to the base image's. Never a line break or NUL in a name or value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The pinned runtime installer."""

    installer: Digest
    url: str | None
    """Where archives are served by digest: ``<url>/<sha256 hex>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """One way into the cage."""

    port: int
    """TCP port that the app listens on, on loopback."""
    health: str | None
    """Path (with query) that answers 2xx when the app is well."""
    tls: TlsMode
    protocol: Protocol
    """What the app speaks where TLS ends in the enclave; ``tcp`` where it doesn't."""
    proxy_protocol: bool
    """Whether connections to the app begin with a PROXY protocol header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """One allowed destination.

    ``host`` is a name in lower case without trailing dot, ``*.name``, an IP address or a network.
    """

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Names of what the operator delivers after boot. Sorted."""

    env: tuple[str, ...]
    files: tuple[str, ...]
    """Names of files in ``/run/secrets``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The one time stamp of a build."""

    policy: EpochPolicy
    time: int | None
    """Seconds since 1970 for ``fixed``; None otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBoot:
    """Boot files of the user's own, absolute paths inside the workspace."""

    kernel: Path
    init: Path
    nsm: Path | None
    cmdline: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """The virtual machine."""

    architecture: Architecture
    boot: Literal["debian", "aws", "cagebuild"] | OwnBoot
    memory_mib: int
    cpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """PEM files for PCR8. Not part of what the lock's checksum covers but for the certificate."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cage:
    """One deployable target, with the workspace's defaults applied."""

    name: str
    address: str
    """``//path/to/folder`` or ``//path:name``."""
    file: Path
    """Its cage.toml, absolute."""
    folder: Path
    base: Base
    app: App
    runtime: Runtime | None
    """None when the cage says ``runtime = false``: nothing is injected."""
    ingress: tuple[Ingress, ...]
    """Sorted by port."""
    egress: tuple[EgressRule, ...]
    """Sorted; empty: nothing is allowed."""
    secrets: Secrets
    logs: bool
    """Whether the parent may read what app and runtime log."""
    epoch: Epoch
    enclave: Enclave
    signing: Signing | None
    checksum: Digest
    """SHA-256 of the effective configuration: what cage.lock was made from."""

    @property
    def lock_file(self) -> Path:
        """``cage.lock`` beside ``cage.toml``; ``x.cage.lock`` beside ``x.cage.toml``."""
        return self.file.with_suffix(".lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the store is, and how large it may grow before the oldest entries are removed."""

    path: Path
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The repository's root: where addresses start and defaults come from."""

    root: Path
    """Absolute, without symlinks."""
    store: StoreSettings
    mirrors: tuple[str, ...]
    """URLs asked first for any locked digest: ``<url>/<sha256 hex>``."""
    cages: tuple[str, ...] | None
    """Patterns of folders that may hold cages; None: all."""
    exclude: tuple[str, ...]
    """Patterns of folders that hold no cages."""
    root_cage: str | None
    """The name of the cage that the root's own cage.toml declares, if it is one."""
    defaults: Mapping[str, Any] = field(hash=False)
    """Sections that cages inherit from: checked, JSON values only, relative paths made ``//…``."""
    fingerprint: str
    """SHA-256 of ``defaults``, in hex."""
