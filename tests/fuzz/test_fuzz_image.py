"""A short run of each fuzzer of the readers of images, from samples that reach deep."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no build for this Python; use 3.11 to 3.13")

from tests.support.images import Files
from tests.support.tars import archive, gnu_long, hard_link, pax, regular, symlink

_HERE = Path(__file__).parent
_SPARSE = {b"GNU.sparse.map": b"0,3", b"GNU.sparse.size": b"9"}


def _samples(name: str) -> list[bytes]:
    if name == "fuzz_layout.py":
        files = Files()
        files.layout(files.image(archive(regular("a")), config={"Cmd": ["a"], "Env": ["A=1"]}))
        item = {"Config": "a.json", "RepoTags": ["a:1"], "Layers": ["a/layer.tar"]}
        documents = [*files.files.values(), json.dumps([item]).encode()]
        return [bytes([kind]) + data for kind in range(5) for data in documents]
    data = archive(
        regular("etc/passwd", b"app:x:1:2::/:\n"),
        pax(_SPARSE),
        regular("sparse", b"abc"),
        gnu_long(b"n" * 200),
        symlink("l", "etc"),
        hard_link("l/h", "sparse"),
        regular("etc/.wh.x"),
    )
    return [bytes([kind]) + data for kind in range(4)] + [b"\4" + gzip.compress(data, mtime=0)]


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["fuzz_tar.py", "fuzz_layout.py"])
def test_nothing_but_image_errors_escapes(tmp_path: Path, name: str) -> None:
    for number, data in enumerate(_samples(name)):
        (tmp_path / f"sample-{number}").write_bytes(data)
    done = subprocess.run(
        [
            sys.executable,
            str(_HERE / name),
            "-runs=8000",
            "-seed=1",
            "-max_len=9000",
            "-max_total_time=60",
            f"-artifact_prefix={tmp_path}/",
            str(tmp_path),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
