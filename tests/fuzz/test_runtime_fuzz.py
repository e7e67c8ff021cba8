"""The runtime's readers under Go's own fuzzer, with the pinned toolchain."""

from __future__ import annotations

import pytest

from tests.support.golang import MODULE, run_go
from tests.support.runtime import shared_work

pytestmark = pytest.mark.fuzz


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("FuzzLines", "./internal/pid1"),
        ("FuzzParse", "./internal/settings"),
        ("FuzzRelay", "./internal/say"),
    ],
)
def test_readers_stand_random_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, package: str
) -> None:
    work = shared_work(tmp_path_factory)
    run_go(work, MODULE, "test", "-run=^$", f"-fuzz=^{name}$", "-fuzztime=5000x", package)
