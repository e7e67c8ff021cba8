"""A short run of the fuzzer of Dockerfiles, from samples that reach deep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no build for this Python; use 3.11 to 3.13")

_SAMPLES = [
    (
        b"\0# syntax=docker/dockerfile:1\n# escape=`\nARG A=x\nFROM $A AS b\nRUN a `\n# c\n  b\n"
        b'FROM b\nCOPY --from=b --chown=1:1 <<E /x\nE\nE\nCMD ["a"]\n'
    ),
    (
        b'\0FROM a:\\\n1\r\nRUN --mount=type=bind,from=q,target=/q <<-"E F"\n\tapk add x\nE F\n'
        b"ENV A='x y' B=\\ z\nHEALTHCHECK --interval=5s CMD x\nONBUILD RUN y\n"
    ),
    b"\1# c\n**/*.py\n!a/[b-d]?/\n\\#\n",
    b"\2a${a:-${b#*c}}\"d $e\"'f'\\g${a//b/c}${a%%d*}",
    b"\3A=1 apt-get install -y x=1 && (date >y; `z`) | sh -c 'a $(b)' <<E\nx\nE\n",
]


@pytest.mark.fuzz
def test_nothing_but_mistakes_escapes(tmp_path: Path) -> None:
    for number, data in enumerate(_SAMPLES):
        (tmp_path / f"sample-{number}").write_bytes(data)
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("fuzz_dockerfile.py")),
            "-runs=20000",
            "-seed=1",
            "-max_len=2000",
            "-max_total_time=60",
            f"-artifact_prefix={tmp_path}/",
            str(tmp_path),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
