"""Fuzz the readers of layers: tar index, flattening, users, decompression.

Run as a script, with libFuzzer's flags: ``python tests/fuzz/fuzz_tar.py -max_total_time=60``.
Only ImageError may escape.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["cagebuild.image"]):
    from cagebuild.errors import ImageError
    from cagebuild.image.compression import Limits, decompress
    from cagebuild.image.layers import Layer, flatten
    from cagebuild.image.tar import read_tar
    from cagebuild.image.tree import Kind, Region, walk
    from cagebuild.image.users import resolve

_BLOCK = 512
_CHUNKS = 64


def _sealed(data: bytes) -> bytes:
    """Every block with the checksum that it needs as a header, so that fuzzing gets past it."""
    blocks = []
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK].ljust(_BLOCK, b"\0")
        if any(block):
            blank = block[:148] + b" " * 8 + block[156:]
            block = blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
        blocks.append(block)
    return b"".join(blocks)


def _read_all(data: bytes) -> None:
    for entry in read_tar(Region.of_bytes(data), "fuzz", max_entries=10_000):
        if entry.node.kind is Kind.FILE:
            for _ in itertools.islice(entry.node.read(1 << 16), _CHUNKS):
                pass


def _flatten(data: bytes) -> None:
    half = len(data) // 2 // _BLOCK * _BLOCK
    parts = [data[:half] + bytes(1024), data[half:]]
    layers = [Layer(region=Region.of_bytes(part), name="fuzz", origin="") for part in parts]
    root = flatten(layers, max_entries=10_000)
    for path, _ in walk(root):
        assert not {b"", b".", b".."} & set(path.split(b"/"))
    resolve(root, "app:staff")


def _decompress(data: bytes) -> None:
    limits = Limits(max_bytes=1 << 24)
    for _ in decompress(Region.of_bytes(data), "fuzz", limits):
        pass


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    kind, rest = data[0] % 5, data[1:]
    with contextlib.suppress(ImageError):
        match kind:
            case 0:
                _read_all(rest)
            case 1:
                _read_all(_sealed(rest))
            case 2:
                _flatten(rest)
            case 3:
                _flatten(_sealed(rest))
            case _:
                _decompress(rest)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
