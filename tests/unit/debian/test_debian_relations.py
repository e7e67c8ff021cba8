"""Versions and relations, as dpkg orders and reads them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cagebuild.debian.relations import (
    Relation,
    RelationSyntaxError,
    check_name,
    compare,
    parse_clauses,
    parse_list,
)

ASCENDING = ["1.0~~", "1.0~~a", "1.0~", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1"]


def test_tildes_sort_before_everything_and_epochs_before_all_else() -> None:
    for lower, higher in pairwise(ASCENDING):
        assert compare(lower, higher) < 0 < compare(higher, lower)
    assert compare("1:0.1", "9.9") > 0
    assert compare("1.10", "1.9") > 0
    assert compare("1.0-0", "1.0") == 0
    assert compare("0:1.0", "1.0") == 0


@pytest.mark.parametrize(
    ("relation", "version", "met"),
    [
        ("a", "1", True),
        ("a", None, True),
        ("a (>= 1)", None, False),
        ("a (= 1)", "1", True),
        ("a (= 1)", "1-1", False),
        ("a (>= 1.0)", "1.0~rc1", False),
        ("a (>> 1)", "1", False),
        ("a (>> 1)", "1+b1", True),
        ("a (<< 2~)", "2~~", True),
        ("a (<= 2)", "2", True),
        ("a (< 2)", "2", True),
        ("a (> 2)", "2", True),
    ],
)
def test_a_version_meets_a_relation(relation: str, version: str | None, met: bool) -> None:
    assert parse_list(relation)[0].accepts(version) is met


def test_clauses_have_alternatives_qualifiers_and_versions() -> None:
    assert parse_clauses("a (>= 1:2~x), b:any | c:amd64 (= 3) ,\n d,") == (
        (Relation(name="a", operator=">=", version="1:2~x"),),
        (
            Relation(name="b", qualifier="any"),
            Relation(name="c", qualifier="amd64", operator="=", version="3"),
        ),
        (Relation(name="d"),),
    )


@pytest.mark.parametrize(
    "text",
    [
        "a (>= )",
        "a (1)",
        "a b",
        "a (>= 1",
        "a [amd64]",
        "a <!nocheck>",
        "-a",
        "a | | b",
        "a/b",
        "ä",
    ],
)
def test_what_is_no_relation_is_refused(text: str) -> None:
    with pytest.raises(RelationSyntaxError):
        parse_clauses(text)


def test_alternatives_are_refused_where_there_can_be_none() -> None:
    with pytest.raises(RelationSyntaxError, match="alternatives"):
        parse_list("a | b")


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a b", ".a", "a\n", "a" * 300])
def test_a_name_that_could_become_another_path_is_refused(name: str) -> None:
    with pytest.raises(RelationSyntaxError):
        check_name(name)


@pytest.mark.parametrize("version", ["", "1 2", "a:1", "1\n", "1/2", "ä"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(RelationSyntaxError):
        compare(version, "1")
