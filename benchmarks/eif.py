"""How long an image takes to become an image file with PCRs, against `sha384sum` of its ramdisk.

Makes an OCI layout of plain tar layers, the same every time, and converts it in processes of their
own, the start of Python included. Prints times, ratios and peak memory; ``--check`` fails when a
ratio or the memory is above what the project promises.

    python benchmarks/eif.py --mib 1024 --files 50000 --check
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LAYERS = 12
EIF_LIMIT = 2.5
MEASURE_LIMIT = 2.0
MEMORY_LIMIT_MIB = 150
_BLOCK = 512
_ONE = 1 << 20
_FOLDERS = 100  # files of a layer are spread over so many

# What `invoke eif` calls, as a program of its own: everything a user waits for is in it.
PROGRAM = """
import json, sys
from pathlib import Path
from cagebuild.nitro.build import BootFiles
from cagebuild.nitro.convert import Conversion, convert
folder = Path(sys.argv[1])
boot = BootFiles(
    kernel=folder / "kernel", cmdline=b"console=ttyS0", init=folder / "init", nsm=None
)
output = Path(sys.argv[2]) if len(sys.argv) > 2 else None
manifest = Path(sys.argv[3]) if len(sys.argv) > 3 else None
built = convert(
    Conversion(image=folder / "layout", boot=boot), output=output, manifest_file=manifest
)
print(json.dumps(built.measured.to_json()))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process: seconds of wall time, peak resident memory in MiB, what it printed."""

    seconds: float
    peak_mib: float
    output: bytes


def timed(argv: list[str]) -> Run:
    """Run a program to its end."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen(argv, stdout=out, cwd=Path(__file__).parents[1])
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"exit status {child.returncode} from {argv[0]}")
        out.seek(0)
        return Run(seconds=seconds, peak_mib=usage.ru_maxrss / 1024, output=out.read())


def fastest(argv: list[str], rounds: int) -> Run:
    """The best of several runs: what the machine can do when nothing else runs."""
    return min((timed(argv) for _ in range(rounds)), key=lambda run: run.seconds)


def header(name: str, size: int, kind: str) -> bytes:
    """A ustar header."""
    mode = "0000755" if kind == "5" else "0000644"
    fields = (
        name.encode().ljust(100, b"\0")
        + f"{mode}\0{0:07o}\0{0:07o}\0{size:011o}\0{1_700_000_000:011o}\0".encode()
        + b" " * 8
        + kind.encode()
        + bytes(100)
        + b"ustar\x0000"
    ).ljust(_BLOCK, b"\0")
    return fields[:148] + f"{sum(fields):06o}\0 ".encode() + fields[156:]


def sizes(count: int, total: int) -> list[int]:
    """Sizes as in real images: many small files, a few that hold most of the bytes."""
    weights = [1 / (1 + number % 1000) ** 1.1 for number in range(count)]
    scale = total / sum(weights)
    return [int(weight * scale) for weight in weights]


def write_layer(path: Path, number: int, count: int, total: int) -> str:
    """A layer of its own files; returns its SHA-256."""
    digest = hashlib.sha256()
    noise = hashlib.shake_256(b"%d" % number).digest(2 * _ONE)
    with path.open("wb") as stream:

        def put(data: bytes) -> None:
            digest.update(data)
            stream.write(data)

        top = f"layer{number:02}"
        for folder in ("", *(f"/{n:02}" for n in range(_FOLDERS))):
            put(header(f"{top}{folder}/", 0, "5"))
        for n, size in enumerate(sizes(count, total)):
            put(header(f"{top}/{n % _FOLDERS:02}/{n:06}", size, "0"))
            left = size
            while left:
                start = n * 4096 % _ONE
                data = noise[start : start + min(left, _ONE)]
                put(data)
                left -= len(data)
            put(bytes(-size % _BLOCK))
        put(bytes(2 * _BLOCK))
    return digest.hexdigest()


def blob(folder: Path, document: object, media_type: str) -> dict[str, object]:
    """A JSON document as a blob, and its descriptor."""
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def write_layout(folder: Path, files: int, mib: int) -> None:
    """An OCI layout with so many files and MiB in its layers."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers, diff_ids = [], []
    for number in range(LAYERS):
        path = blobs / f"layer-{number}"
        digest = write_layer(path, number, files // LAYERS, mib * _ONE // LAYERS)
        layers.append(
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": f"sha256:{digest}",
                "size": path.stat().st_size,
            }
        )
        diff_ids.append(f"sha256:{digest}")
        path.rename(blobs / digest)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/app"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(folder, config, "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    index = {
        "schemaVersion": 2,
        "manifests": [blob(folder, manifest, "application/vnd.oci.image.manifest.v1+json")],
    }
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def write_inputs(folder: Path, files: int, mib: int) -> None:
    """The layout, and boot files that pass the checks."""
    write_layout(folder / "layout", files, mib)
    kernel = bytearray(8 * _ONE)
    kernel[0x1FE:0x206] = b"\x55\xaa\0\0HdrS"
    kernel[0x211] = 1
    (folder / "kernel").write_bytes(kernel)
    (folder / "init").write_bytes(bytes(700_000))


def cut_ramdisk(image: Path, ramdisk: Path) -> None:
    """The image's last section, which is the large ramdisk, as a file."""
    with image.open("rb") as stream:
        head = stream.read(548)
        (count,) = struct.unpack_from(">H", head, 26)
        (offset,) = struct.unpack_from(">Q", head, 28 + 8 * (count - 1))
        stream.seek(offset + 12)
        with ramdisk.open("wb") as out:
            shutil.copyfileobj(stream, out, _ONE)


def main() -> int:
    """Run the benchmark; 1 when ``--check`` found a limit broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to put the temporary files")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-eif-", dir=given.folder) as name:
        folder = Path(name).resolve()
        write_inputs(folder, given.files, given.mib)
        image, ramdisk = folder / "image.eif", folder / "ramdisk"
        call = [sys.executable, "-c", PROGRAM, str(folder)]
        # The first of each warms the page cache; the best of the rest counts.
        building = fastest([*call, str(image)], given.rounds)
        cut_ramdisk(image, ramdisk)
        measuring = fastest(call, given.rounds)
        listing = fastest([*call, str(image), str(folder / "manifest.json")], given.rounds)
        baseline = fastest(["sha384sum", str(ramdisk)], given.rounds)
        if measuring.output != building.output:
            raise SystemExit("measuring and building disagree")
        size = ramdisk.stat().st_size
    print(f"ramdisk          {size / _ONE:9.0f} MiB, {given.files} files, {LAYERS} layers")
    print(f"sha384sum        {baseline.seconds:9.2f} s")
    broken = False
    for what, run, limit in (
        ("image and PCRs", building, EIF_LIMIT),
        ("PCRs only", measuring, MEASURE_LIMIT),
        ("with a manifest", listing, None),
    ):
        ratio = run.seconds / baseline.seconds
        wanted = f" (at most {limit})" if limit else ""
        print(f"{what:<16} {run.seconds:9.2f} s = {ratio:.2f} x{wanted}, {run.peak_mib:.0f} MiB")
        broken |= bool(limit) and ratio > (limit or 0)
        broken |= run.peak_mib > MEMORY_LIMIT_MIB
    return int(given.check and broken)


if __name__ == "__main__":
    sys.exit(main())
