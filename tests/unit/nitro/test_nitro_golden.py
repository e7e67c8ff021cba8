"""Golden ramdisks: every byte of awkward trees stays as it was checked by hand."""

from __future__ import annotations

import pytest

from tests.support.golden_ramdisks import GOLDEN, cases, listing


def test_there_are_cases() -> None:
    assert len(cases()) >= 6


@pytest.mark.parametrize("case", cases())
def test_a_golden_ramdisk(case: str) -> None:
    assert listing(case) == (GOLDEN / case / "ramdisk.txt").read_text()
