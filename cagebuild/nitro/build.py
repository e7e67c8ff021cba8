"""From an image's tree and boot files to an enclave image file and its measurements."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import EifError
from cagebuild.image.tree import Kind, Node, Region
from cagebuild.nitro import cpio, eif, manifest, metadata, ramdisk
from cagebuild.nitro.bootfiles import check_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture, Measured
    from cagebuild.nitro.sign import Certificate, Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What an enclave boots with."""

    kernel: Path
    cmdline: bytes
    """White space around it is not part of it."""
    init: Path
    nsm: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that decides the bytes of an image file."""

    root: Node
    """The image's tree, as ``container.create_container`` left it."""
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    boot: BootFiles
    architecture: Architecture
    identity: metadata.Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came out."""

    measured: Measured
    warnings: tuple[str, ...]
    """What of the image the ramdisk could not hold, one line each."""


def build(
    job: Job,
    *,
    output: Path | None,
    manifest_file: Path | None = None,
    signer: Signer | None = None,
    certificate: Certificate | None = None,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Write the image file to ``output``, or measure only when that is None.

    ``manifest_file`` gets the list of all entries; it costs a digest of every file. ``certificate``
    decides PCR8 of a file that ``attach.sign_file`` signs later; ``signer`` signs it now.
    ``progress`` is told the bytes done so far; ``expected_size`` says of how many. Raises EifError,
    ImageError, SigningError; no file is left half-written.
    """
    warnings = ramdisk.Warnings()
    with contextlib.ExitStack() as stack:
        writer = None
        if manifest_file is not None:
            writer = stack.enter_context(manifest.Writer(manifest_file.parent))
        contents = _contents(job, warnings, writer)
        chosen = signer.certificate if signer else certificate
        if output is None:
            measured = eif.measure(contents, certificate=chosen, progress=progress)
        else:
            measured = eif.write(
                contents, output, signer=signer, certificate=chosen, progress=progress
            )
        if writer is not None and manifest_file is not None:
            writer.save(manifest_file, manifest.Head.of(measured))
    return Built(measured=measured, warnings=warnings.lines())


def expected_size(job: Job) -> int:
    """The bytes of the image file without a signature, as ``progress`` counts them."""
    boot, image = _entries(job, ramdisk.Warnings())
    sizes = (
        job.boot.kernel.stat().st_size,
        len(job.boot.cmdline.strip()),
        len(metadata.metadata_json(job.identity)),
        cpio.archive_size(boot),
        cpio.archive_size(image),
    )
    return eif.HEADER.size + sum(eif.SECTION_HEADER.size + size for size in sizes)


def _contents(job: Job, warnings: ramdisk.Warnings, writer: manifest.Writer | None) -> eif.Contents:
    boot, image = _entries(job, warnings)
    return eif.Contents(
        architecture=job.architecture,
        kernel=job.boot.kernel,
        cmdline=job.boot.cmdline.strip(),
        metadata=metadata.metadata_json(job.identity),
        boot_ramdisk=cpio.pack(boot, writer.recorder(0) if writer else None),
        image_ramdisk=cpio.pack(image, writer.recorder(1) if writer else None),
        epoch=job.identity.epoch,
    )


def _entries(
    job: Job, warnings: ramdisk.Warnings
) -> tuple[Iterator[cpio.Entry], Iterator[cpio.Entry]]:
    """Both ramdisks' entries, afresh."""
    nsm = job.boot.nsm
    return (
        ramdisk.boot_entries(
            _boot_file(job.boot.init, job.architecture, "init"),
            _boot_file(nsm, job.architecture, "kernel module") if nsm else None,
        ),
        ramdisk.image_entries(job.root, cmd=job.cmd, env=job.env, warnings=warnings),
    )


def _boot_file(path: Path, architecture: Architecture, what: str) -> Node:
    check_program(path, architecture, what)
    try:
        region = Region.of_file(path)
    except OSError as error:
        raise EifError(f"cannot read the {what} {path}: {error.strerror}") from error
    return Node(Kind.FILE, mode=0o755, size=region.size, source=region)
