"""--chmod in octal and in words, with the values that BSD's setmode gives."""

from __future__ import annotations

import pytest

from cagebuild.embedded.modes import parse
from cagebuild.embedded.refused import Refused


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("644", 0o4755, 0o644),
        ("0", 0o755, 0o0),
        ("07777", 0o600, 0o7777),
        ("u=rwx,go=rx", 0o600, 0o755),
        ("+x", 0o644, 0o755),
        ("-x", 0o755, 0o644),
        ("a-w", 0o666, 0o444),
        ("o=", 0o777, 0o770),
        ("=", 0o4777, 0o0),
        ("=", 0o1777, 0o1000),
        ("=rw,+X", 0o700, 0o777),
        ("+X", 0o644, 0o644),
        ("+X", 0o645, 0o755),
        ("-X", 0o755, 0o644),
        ("g=u", 0o640, 0o660),
        ("go=u-w", 0o700, 0o755),
        ("o-u", 0o607, 0o601),
        ("u+s", 0o755, 0o4755),
        ("g+s", 0o755, 0o2755),
        ("o+s", 0o755, 0o755),
        ("a+s,u-s", 0o755, 0o2755),
        ("u=rw", 0o4711, 0o611),
        ("+t", 0o777, 0o1777),
        ("o+t", 0o777, 0o777),
        ("+xt", 0o644, 0o1644),
        ("u+r-w", 0o200, 0o400),
        ("g=ux", 0o640, 0o610),
    ],
)
def test_a_mode_becomes_another(text: str, before: int, after: int) -> None:
    assert parse(text).apply(before, directory=False) == after


def test_x_for_what_can_be_executed_is_for_directories_too() -> None:
    assert parse("u=rwX,go=rX").apply(0o600, directory=True) == 0o755


@pytest.mark.parametrize(
    "text",
    ["888", "17777", "u", "u+", "x", "u+q", "u=r,", ",u=r", "0o755", "7x", "+755", " 7", "-1"],
)
def test_what_is_no_mode(text: str) -> None:
    if text == "u+":
        assert parse(text).apply(0o640, directory=False) == 0o640
        return
    with pytest.raises(Refused, match="is no mode"):
        parse(text)


def test_parents_get_octal_modes_only() -> None:
    assert parse("4711").for_parents == 0o711
    assert parse("u=rwx").for_parents == 0o755
