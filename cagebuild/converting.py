"""The command ``invoke eif``: an existing image with given boot files, nothing added."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from cagebuild.config.environment import source_date_epoch
from cagebuild.config.model import Architecture
from cagebuild.errors import EifError, UsageError
from cagebuild.nitro.build import BootFiles
from cagebuild.nitro.convert import CommandRule, Conversion, convert
from cagebuild.show import warn

if TYPE_CHECKING:
    from cagebuild.nitro.sign import Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The command's options as they were given; empty where they were not."""

    image: str
    name: str
    kernel: str
    cmdline_file: str
    init: str
    nsm: str
    architecture: str
    certificate: str
    key: str
    output: str
    command: str


def run(words: Words, *, as_json: bool) -> None:
    """Convert, and print the measurements; raises CageError."""
    for option, value, known in (
        ("--arch", words.architecture, get_args(Architecture)),
        ("--command", words.command, get_args(CommandRule)),
    ):
        if value not in known:
            raise UsageError(f"{option} {value}: expected {' or '.join(known)}")
    built = convert(
        Conversion(
            image=Path(words.image),
            name=words.name or None,
            architecture=cast("Architecture", words.architecture),
            boot=BootFiles(
                kernel=Path(words.kernel),
                cmdline=_cmdline(Path(words.cmdline_file)),
                init=Path(words.init),
                nsm=Path(words.nsm) if words.nsm else None,
            ),
            command=cast("CommandRule", words.command),
            epoch=source_date_epoch() or 0,
        ),
        output=Path(words.output) if words.output else None,
        signer=_signer(words),
    )
    for line in built.warnings:
        warn(line)
    measurements = built.measured.measurements
    if as_json:
        print(json.dumps(measurements.to_json(), indent=2))
        return
    for name, value in measurements.pcrs().items():
        print(f"{name}  {value}")


def _cmdline(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise EifError(
            f"cannot read the kernel's command line {file}: {error.strerror}",
            hint="--cmdline-file names a text file; AWS's is blobs/<arch>/cmdline",
        ) from error


def _signer(words: Words) -> Signer | None:
    if bool(words.certificate) != bool(words.key):
        raise UsageError(
            "signing needs both a certificate and its key",
            hint="give --cert and --key, or neither",
        )
    if not words.certificate:
        return None
    from cagebuild.nitro.sign import load_signer

    return load_signer(certificate=Path(words.certificate), key=Path(words.key))
