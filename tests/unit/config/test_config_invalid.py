"""Every folder of tests/invalid: what is said of its mistake, where, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.config import CASES, answer, cases


@pytest.mark.parametrize("case", cases())
def test_the_mistake_is_explained(case: str, tmp_path: Path) -> None:
    expected = (CASES / case / "expected.txt").read_text()
    assert answer(case, tmp_path.resolve()) == expected


@pytest.mark.parametrize("case", cases())
def test_the_answer_names_file_line_and_column(case: str) -> None:
    expected = (CASES / case / "expected.txt").read_text()
    assert expected.startswith(("exit code 10\n", "exit code 11\n"))
    # Nothing but depth has no one place.
    assert "cage.toml:" in expected
    assert ("cage.toml:1:" in expected or " | " in expected) or case == "nested-too-deeply"
