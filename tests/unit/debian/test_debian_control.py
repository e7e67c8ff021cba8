"""Control paragraphs: what is read, and what two readers could see differently."""

from __future__ import annotations

import pytest

from cagebuild.debian.control import ControlSyntaxError, parse_paragraph


def test_fields_keep_their_order_and_folded_lines() -> None:
    text = "Package: a\nDescription: short\n long\n .\n  indented\nX-Other:v\nEmpty:\n"
    assert list(parse_paragraph(text).items()) == [
        ("Package", "a"),
        ("Description", "short\nlong\n.\n indented"),
        ("X-Other", "v"),
        ("Empty", ""),
    ]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("a field twice", "Package: a\nPackage: b\n"),
        ("a field twice in another case", "Package: a\npackage: b\n"),
        ("a continuation of nothing", " continued\n"),
        ("a continuation that is blank", "A: b\n \n c\n"),
        ("a second paragraph", "Package: a\n\nPackage: b\n"),
        ("no colon", "Package a\n"),
        ("no name", ": a\n"),
        ("a comment", "# Package: a\n"),
        ("a dash at the start", "-Package: a\n"),
        ("a space in the name", "Package name: a\n"),
        ("nothing", ""),
    ],
)
def test_a_paragraph_is_refused_that_has(wrong: str, text: str) -> None:
    with pytest.raises(ControlSyntaxError):
        parse_paragraph(text)
