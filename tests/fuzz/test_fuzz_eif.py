"""A short run of the fuzzer of the image files' reader, from samples that reach deep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no build for this Python; use 3.11 to 3.13")

from cagebuild.nitro.build import build
from tests.support.nitro import built, job

FUZZER = Path(__file__).with_name("fuzz_eif.py")


@pytest.mark.fuzz
def test_nothing_but_cage_errors_escapes(tmp_path: Path) -> None:
    made, samples = tmp_path / "made", tmp_path / "samples"
    made.mkdir()
    samples.mkdir()
    image, _ = built(made)
    build(job(made), output=None, manifest_file=made / "m.json")
    # atheris takes integers from the end of the data: the last byte chooses the reader.
    (samples / "image").write_bytes(image.read_bytes() + b"\0")
    (samples / "manifest").write_bytes((made / "m.json").read_bytes() + b"\3")
    done = subprocess.run(
        [
            sys.executable,
            str(FUZZER),
            "-runs=8000",
            "-seed=1",
            "-max_len=12000",
            "-max_total_time=60",
            f"-artifact_prefix={tmp_path}/",
            str(samples),
        ],
        env={**os.environ, "PYTHONPATH": str(FUZZER.parents[2])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
