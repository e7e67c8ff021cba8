"""`invoke eif`: an existing image and given boot files to an enclave, nothing injected.

What `nitro-cli build-enclave --docker-uri` does, without Docker: the same PCRs for the same input
(aws/aws-nitro-enclaves-cli: enclave_build/src/docker.rs decides what is run).
"""

from __future__ import annotations

import shlex
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cagebuild.errors import EifError, ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.layout import open_image
from cagebuild.image.tree import walk
from cagebuild.nitro.build import BootFiles, Built, Job, build
from cagebuild.nitro.container import create_container
from cagebuild.nitro.cpio import printable
from cagebuild.nitro.metadata import Identity
from cagebuild.nitro.ramdisk import RETIMED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cagebuild.image.config import ImageConfig
    from cagebuild.image.layout import Image
    from cagebuild.image.tree import Node
    from cagebuild.nitro.pcr import Architecture
    from cagebuild.nitro.sign import Signer

CommandRule = Literal["nitro-cli", "docker"]
_OPENERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What to convert, and with what."""

    image: Path
    """An OCI layout or archive, or a docker-archive."""
    name: str | None = None
    """Which image of several: ``repository:tag``."""
    architecture: Architecture = "x86_64"
    boot: BootFiles
    command: CommandRule = "nitro-cli"
    """Whose reading of CMD and ENTRYPOINT decides what is run."""
    epoch: int = 0
    """Time of what has none in the image: BuildTime, a missing WORKDIR, implied directories."""


def convert(
    conversion: Conversion,
    *,
    output: Path | None,
    signer: Signer | None = None,
    manifest_file: Path | None = None,
    scratch: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Write the image file to ``output``, or measure only when that is None.

    Compressed layers are unpacked into a temporary folder inside ``scratch`` (the system's own when
    None). The warnings say what the ramdisk cannot hold, and where Docker would run something else.
    Raises ResolveError, ImageError, EifError, SigningError, UnsupportedError.
    """
    with tempfile.TemporaryDirectory(prefix="cagebuild-", dir=scratch) as folder:
        image = _open(conversion, Path(folder))
        argv, warnings = command_of(image.config, conversion.command)
        root, more = _tree(image, Path(folder), conversion.epoch)
        built = build(
            Job(
                root=root,
                cmd=argv,
                env=image.config.env,
                boot=conversion.boot,
                architecture=conversion.architecture,
                identity=_identity(image, conversion.epoch),
            ),
            output=output,
            manifest_file=manifest_file,
            signer=signer,
            progress=progress,
        )
    return replace(built, warnings=(*warnings, *more, *built.warnings))


def command_of(config: ImageConfig, rule: CommandRule) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The argument vector that the enclave runs, and what Docker would do otherwise.

    nitro-cli takes CMD if there is one, even an empty one, else ENTRYPOINT, never both. Raises
    EifError when there is nothing to run.
    """
    by_docker = config.argv()
    by_nitro = config.cmd if config.cmd is not None else config.entrypoint
    argv = by_docker if rule == "docker" else by_nitro
    if argv is None or (rule == "docker" and not argv):
        raise EifError(
            "the image has neither CMD nor ENTRYPOINT, so there is nothing to run",
            hint="set one in the image",
        )
    warnings = []
    if argv != by_docker:
        warnings.append(
            f"the enclave runs {_shown(argv)}, as nitro-cli reads CMD and ENTRYPOINT; Docker "
            f"would run {_shown(by_docker)} (--command docker does)"
        )
    if config.user not in ("", "0", "root", "0:0", "root:root"):
        warnings.append(f"USER {config.user!r} is ignored: the enclave's init runs it as root")
    if config.workdir not in ("", "/"):
        warnings.append(f"WORKDIR {config.workdir!r} is ignored: it is run in /")
    return argv, tuple(warnings)


def _shown(argv: tuple[str, ...]) -> str:
    return shlex.join(argv) if argv else "nothing"


def _open(conversion: Conversion, folder: Path) -> Image:
    try:
        return open_image(
            conversion.image,
            architecture=conversion.architecture,
            scratch=folder,
            name=conversion.name,
        )
    except OSError as error:
        raise ImageError(f"cannot read {conversion.image}: {error.strerror}") from error


def _tree(image: Image, folder: Path, epoch: int) -> tuple[Node, tuple[str, ...]]:
    """The image's tree with what a container adds, and what nitro-cli makes anew each time."""
    implied: set[Node] = set()
    # A layer is checked against its digest, and unpacked, while those below it are read.
    with ThreadPoolExecutor(_OPENERS) as pool:
        opened = pool.map(lambda blob: blob.open(folder), image.layers)
        layers: Iterator[Layer] = (
            Layer(region=region, name=blob.name, origin=f"layer {blob.diff_id}")
            for blob, region in zip(image.layers, opened, strict=True)
        )
        root = flatten(layers, implied_time=epoch, implied=implied)
    made = create_container(root, workdir=image.config.workdir, epoch=epoch)
    warnings = []
    if made:
        warnings.append(
            f"WORKDIR {image.config.workdir!r} is in no layer: nitro-cli gives it the time of each "
            "build, so its PCR0 and PCR2 are not the same twice"
        )
    unstable = [path for path, node in walk(root) if node in implied] if implied else []
    unstable = [path for path in unstable if path not in RETIMED]
    if unstable:
        first = printable(unstable[0].decode("utf-8", "backslashreplace"))
        warnings.append(
            f"{len(unstable)} directories have no entry in any layer (the first is /{first}): "
            "nitro-cli gives them the time of `docker load`, so its PCR0 and PCR2 may differ"
        )
    return root, tuple(warnings)


def _identity(image: Image, epoch: int) -> Identity:
    return Identity(
        name=image.name or "image",
        version=image.config_digest.hex,
        epoch=epoch,
        docker_info={
            "Id": str(image.config_digest),
            "Architecture": image.config.architecture,
            "Os": image.config.os,
        },
    )
