"""Fuzz the reading of cage.toml: whatever the bytes are, a Cage or a ConfigError comes out.

    python tests/fuzz/fuzz_toml.py -runs=100000 [CORPUS…]
    python tests/fuzz/fuzz_toml.py -max_total_time=60

Options are libFuzzer's. The folders of tests/invalid are the corpus unless another is named.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["cagebuild", "tomllib"]):
    from cagebuild import config
    from cagebuild.config.model import Workspace
    from cagebuild.errors import ConfigError

INVALID = Path(__file__).parents[1] / "invalid"
MOST = 101
"""Diagnostics of one file are bounded, and so is the width of each."""


class KnowsEverything:
    """The worst cache there can be."""

    def known(self, key: str) -> bool:
        return bool(key)

    def remember(self, key: str) -> None:
        """Nothing."""


def workspace(folder: Path) -> Workspace:
    (folder / ".git").mkdir()
    (folder / "c").mkdir()
    return config.load_workspace(folder)


def check(data: bytes, around: Workspace) -> None:
    """Load the bytes as a cage and as a workspace's root."""
    file = around.root / "c/cage.toml"
    file.write_bytes(data)
    for cache in (None, KnowsEverything()):
        try:
            cage = config.load(file, around, validated=cache)
        except ConfigError as error:
            check_message(error)
        else:
            assert all(entry.source.is_relative_to(cage.folder) for entry in cage.app.files)
            assert cache or all("\n" not in word for word in cage.app.command or ())
    root = around.root / "cage.toml"
    root.write_bytes(data)
    try:
        config.load_workspace(around.root)
    except ConfigError as error:
        check_message(error)
    finally:
        root.unlink()


def check_message(error: ConfigError) -> None:
    """What is said is of bounded length, and does nothing to a terminal."""
    shown = error.render()
    assert 0 < len(error.diagnostics) <= MOST
    assert len(shown) < MOST * 4096
    assert all(c.isprintable() or c == "\n" for c in shown), shown


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as seeds:
        around = workspace(Path(folder).resolve())
        for case in INVALID.iterdir():
            (Path(seeds) / case.name).write_bytes((case / "cage.toml").read_bytes())
        corpus = [word for word in sys.argv[1:] if not word.startswith("-")] or [seeds]
        options = [word for word in sys.argv[1:] if word.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *corpus], lambda data: check(data, around))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
