"""Signing an image file that was built without its key.

A build needs no key, so that steps and their cache never see one; the signature is added last.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from cagebuild.errors import EifError
from cagebuild.nitro import eif, reader
from cagebuild.nitro.newfile import new_file, write_all

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.nitro.pcr import Measurements
    from cagebuild.nitro.sign import Signer

_CHUNK = 1 << 20


def sign_file(unsigned: Path, output: Path, signer: Signer) -> Measurements:
    """Write ``unsigned`` with a signature to ``output``, the same file or another.

    Returns what it measures. What is signed is the PCR0 of the bytes themselves: the file is
    checked first. The result equals that of a build with the signer. Raises EifError for a damaged
    or signed file, and SigningError.
    """
    image = reader.read(unsigned)
    if image.signature is not None:
        raise EifError(f"{unsigned} is signed already", hint="sign the unsigned file")
    if image.header.version != eif.VERSION:
        raise EifError(f"{unsigned} is of version {image.header.version}, not {eif.VERSION}")
    section = signer.sign(bytes.fromhex(image.measurements.pcr0))
    if len(section) > eif.MAX_SIGNATURE:
        raise eif.signature_too_large(len(section))
    section_header = eif.SECTION_HEADER.pack(eif.SECTION_TYPES["signature"], 0, len(section))
    places = [(place.offset - len(section_header), place.size) for place in image.places]
    places.append((image.size, len(section)))
    header = eif.pack_header(image.header.architecture, places)
    with unsigned.open("rb") as stream, new_file(output) as descriptor:
        write_all(descriptor, header + bytes(eif.CRC_SIZE))
        stream.seek(eif.HEADER.size)
        checksum = zlib.crc32(header)
        left = image.size - eif.HEADER.size
        while left and (data := stream.read(min(_CHUNK, left))):
            checksum = zlib.crc32(data, checksum)
            write_all(descriptor, data)
            left -= len(data)
        write_all(descriptor, section_header + section)
        checksum = zlib.crc32(section, zlib.crc32(section_header, checksum))
        os.pwrite(descriptor, struct.pack(">I", checksum), len(header))
    return replace(image.measurements, pcr8=signer.certificate.pcr8)
