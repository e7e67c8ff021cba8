"""The runtime's readers under Go's own fuzzer, with the pinned toolchain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.golang import MODULE, run_go
from tests.support.runtime import shared_work

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fuzz

_TARGET: Final = re.compile(r"^func (Fuzz\w+)\(f \*testing\.F\)", re.MULTILINE)


def targets() -> Iterator[tuple[str, str]]:
    """Every fuzz target of the module, and its package."""
    for file in sorted(MODULE.rglob("*_test.go")):
        for found in _TARGET.finditer(file.read_text()):
            yield found[1], f"./{file.parent.relative_to(MODULE)}"


@pytest.mark.parametrize(("name", "package"), list(targets()))
def test_readers_stand_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, package: str
) -> None:
    work = shared_work(tmp_path_factory)
    run_go(work, MODULE, "test", "-run=^$", f"-fuzz=^{name}$", "-fuzztime=5000x", package)
