"""Fuzzing the readers of image files and manifests: nothing but a CageError may escape.

python tests/fuzz/fuzz_eif.py -runs=20000
"""

from __future__ import annotations

import contextlib
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["cagebuild"]):
    from cagebuild.errors import CageError
    from cagebuild.nitro import manifest, sign
    from cagebuild.nitro.describe import describe

_HEADER = 548
_TYPES = (1, 2, 5, 3, 3, 4)


def image_from(provider: atheris.FuzzedDataProvider) -> bytes:
    """A file whose header and CRC are right, so that the fuzzer gets past them."""
    count = provider.ConsumeIntInRange(3, len(_TYPES))
    offsets, sizes, body = [0] * 32, [0] * 32, b""
    for number, kind in enumerate(_TYPES[:count]):
        size = provider.ConsumeIntInRange(0, 400)
        data = provider.ConsumeBytes(size)
        offsets[number], sizes[number] = _HEADER + len(body), len(data)
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
    head = struct.pack(">4sHHQQHH", b".eif", 4, 0, 0, 0, 0, count)
    head += struct.pack(">64QI", *offsets, *sizes, 0)
    return head + struct.pack(">I", zlib.crc32(head + body)) + body


def make_target(folder: Path) -> None:
    """Start fuzzing with a scratch folder for the files."""
    path = folder / "given"

    def target(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        choice = provider.ConsumeIntInRange(0, 3)
        if choice == 0:
            path.write_bytes(provider.ConsumeBytes(len(data)))
        elif choice == 1:
            path.write_bytes(image_from(provider))
        with contextlib.suppress(CageError):
            if choice < 2:
                description = describe(path)
                description.to_json()
                description.render().encode()
            elif choice == 2:
                sign.verify(provider.ConsumeBytes(len(data)), bytes(48))
            else:
                path.write_bytes(provider.ConsumeBytes(len(data)))
                list(manifest.load(path).entries())

    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make_target(Path(scratch))
