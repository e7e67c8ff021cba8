"""Decompression: formats by magic, members one after another, what is cut, damaged or a bomb."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import zlib
from pathlib import Path

import pytest
import zstandard

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.image.compression import Limits, decompress, detect, unpack, unpack_to
from cagebuild.image.tree import Region

_TEXT = b"".join(b"line %d of a text\n" % number for number in range(40_000))
_NOISE = random.Random(7).randbytes(700_000)
CONTENTS = {"nothing": b"", "a byte": b"x", "text": _TEXT, "noise": _NOISE, "zeros": bytes(5 << 20)}


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _zstd_streamed(data: bytes) -> bytes:
    """Frames without their content size, as registries have them."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSORS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": _zstd,
    "zstd streamed": _zstd_streamed,
    "xz": lzma.compress,
}


def _all(data: bytes, limits: Limits | None = None) -> bytes:
    pieces = list(decompress(Region.of_bytes(data), "blob", limits))
    assert all(0 < len(piece) <= 1 << 20 for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_round_trip(name: str, content: str) -> None:
    data = COMPRESSORS[name](CONTENTS[content])
    assert detect(data[:6]) == name.split(maxsplit=1)[0]
    assert _all(data) == CONTENTS[content]


@pytest.mark.parametrize("content", CONTENTS)
def test_plain_bytes_are_given_as_they_are(content: str) -> None:
    assert detect(CONTENTS[content][:6]) == "plain"
    assert _all(CONTENTS[content]) == CONTENTS[content]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_members_one_after_another_are_one_stream(name: str) -> None:
    compress = COMPRESSORS[name]
    assert _all(compress(_TEXT) + compress(b"") + compress(_NOISE)) == _TEXT + _NOISE


def test_skippable_zstd_frames_are_skipped() -> None:
    skippable = b"\x5f\x2a\x4d\x18" + (600_000).to_bytes(4, "little") + bytes(600_000)
    data = skippable + _zstd(_TEXT) + skippable + _zstd(_NOISE)
    assert detect(data[:6]) == "zstd"
    assert _all(data) == _TEXT + _NOISE


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("content", ["text", "noise"])
def test_a_stream_cut_anywhere_is_refused(name: str, content: str) -> None:
    data = COMPRESSORS[name](CONTENTS[content])
    cuts = {7, len(data) // 3, 1 << 18, len(data) - 5, len(data) - 1}
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        with pytest.raises(ImageError, match=r"blob: the .* (ends early|is damaged)"):
            _all(data[:cut])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_something_after_the_stream_is_refused(name: str) -> None:
    for rest in (b"x", b"garbage", bytes(512)):
        with pytest.raises(ImageError, match=r"something follows|damaged|ends early"):
            _all(COMPRESSORS[name](_TEXT) + rest)


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz"])
def test_a_damaged_stream_is_refused(name: str) -> None:
    data = COMPRESSORS[name](_NOISE)
    for position in (12, len(data) // 2, len(data) - 3):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with pytest.raises(ImageError, match=r"damaged|ends early|something follows"):
            _all(bytes(damaged))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_size_is_limited(name: str) -> None:
    data = COMPRESSORS[name](bytes(3 << 20))
    assert len(_all(data, Limits(max_bytes=3 << 20))) == 3 << 20
    with pytest.raises(ImageError, match=f"more than {(3 << 20) - 1}"):
        _all(data, Limits(max_bytes=(3 << 20) - 1))


def test_ratio_is_limited_where_the_output_is_large() -> None:
    frame = _zstd(bytes(64 << 20))
    limits = Limits(max_ratio=100)
    total = sum(map(len, decompress(Region.of_bytes(frame * 4), "blob", limits)))
    assert total == 256 << 20
    with pytest.raises(ImageError, match="unpack to more than"):
        for _ in decompress(Region.of_bytes(frame * 5), "bomb", limits):
            pass


def test_a_huge_zstd_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(_TEXT) + compressor.flush()
    with pytest.raises(ImageError, match="damaged"):
        _all(data)


def test_unpack_gives_both_digests() -> None:
    data = gzip.compress(_TEXT, mtime=0)
    out = io.BytesIO()
    done = unpack(Region.of_bytes(data), out, "blob")
    assert out.getvalue() == _TEXT
    assert done.digest == Digest.of(_TEXT)
    assert done.size == len(_TEXT)
    assert done.compressed == Digest.of(data)


def test_unpack_to_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    with pytest.raises(ImageError):
        unpack_to(Region.of_bytes(zlib.compress(b"x", wbits=31)[:-1]), path, "blob")
    assert not path.exists()
    assert unpack_to(Region.of_bytes(b"plain"), path, "blob").size == 5
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError):
        unpack_to(Region.of_bytes(b"other"), path, "blob")
    assert path.read_bytes() == b"plain"
