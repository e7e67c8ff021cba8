"""Fuzz the readers of image documents: layouts, indexes, manifests, configs.

Run as a script, with libFuzzer's flags: ``python tests/fuzz/fuzz_layout.py -max_total_time=60``.
Only ImageError, ResolveError and UnsupportedError may escape.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["cagebuild.image"]):
    from cagebuild.errors import ImageError, ResolveError, UnsupportedError
    from cagebuild.image.config import parse_config
    from cagebuild.image.layout import open_image
    from cagebuild.image.manifest import parse_index, parse_manifest

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-layout-"))


def _open(name: str, data: bytes) -> None:
    for other in ("index.json", "manifest.json", "oci-layout"):
        (_FOLDER / other).unlink(missing_ok=True)
    (_FOLDER / name).write_bytes(data)
    if name == "index.json":
        (_FOLDER / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    image = open_image(_FOLDER, architecture="x86_64", scratch=_FOLDER)
    image.config.to_json(created=0)


def one_input(data: bytes) -> None:
    """The first byte chooses the document."""
    if not data:
        return
    kind, rest = data[0] % 5, data[1:]
    with contextlib.suppress(ImageError, ResolveError, UnsupportedError):
        match kind:
            case 0:
                parse_index(rest, "fuzz")
            case 1:
                parse_manifest(rest, "fuzz")
            case 2:
                parse_config(rest, "fuzz").to_json(created=0)
            case 3:
                _open("index.json", rest)
            case _:
                _open("manifest.json", rest)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
