"""Closures of random archives: complete, free of conflicts, and the same in any order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cagebuild.debian.resolve import resolve
from cagebuild.errors import ResolveError
from tests.support.debian import stanza, universe

NAMES = [f"{letter}{letter}" for letter in "abcdefgh"]
VIRTUAL = ["v1", "v2"]


@st.composite
def relations(draw: st.DrawFn) -> str:
    def relation() -> str:
        version = draw(st.sampled_from(["", "", " (>= 2)", " (<< 2)", " (= 1)"]))
        return draw(st.sampled_from(NAMES + VIRTUAL)) + version

    clauses = draw(st.integers(0, 3))
    return ", ".join(
        " | ".join(relation() for _ in range(draw(st.integers(1, 3)))) for _ in range(clauses)
    )


@st.composite
def archives(draw: st.DrawFn) -> list[str]:
    stanzas = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        for version in draw(st.sampled_from([["1"], ["2"], ["1", "2"]])):
            fields = {"depends": draw(relations()), "provides": ""}
            fields["provides"] = draw(st.sampled_from(["", "", "v1", "v2 (= 2)", "v1, v2"]))
            fields["conflicts"] = draw(st.sampled_from(["", "", "", "v1", "aa (<< 2)"]))
            fields["priority"] = draw(st.sampled_from(["required", "optional"]))
            stanzas.append(stanza(name, version, **{k: v for k, v in fields.items() if v}))
    return stanzas


def outcome(stanzas: list[str], asked: list[str]) -> str | list[tuple[str, str]]:
    try:
        return [(p.name, p.version) for p in resolve(universe(*stanzas), asked)]
    except ResolveError as error:
        return error.render()


@settings(max_examples=300, deadline=None)
@given(
    stanzas=archives(),
    asked=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 1 << 16),
)
def test_the_order_of_the_index_and_of_the_names_makes_no_difference(
    stanzas: list[str], asked: list[str], seed: int
) -> None:
    expected = outcome(stanzas, asked)
    order = random.Random(seed)
    order.shuffle(stanzas)
    order.shuffle(asked)
    assert outcome(stanzas, asked) == expected


@settings(max_examples=300, deadline=None)
@given(
    stanzas=archives(),
    asked=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
)
def test_a_closure_meets_every_dependency_and_has_no_conflict(
    stanzas: list[str], asked: list[str]
) -> None:
    packages = universe(*stanzas)
    try:
        chosen = resolve(packages, asked)
    except ResolveError:
        return
    assert set(asked) <= {package.name for package in chosen}
    for package in chosen:
        for clause in package.depends:
            assert any(packages.is_met_by(r, other) for r in clause for other in chosen)
        for relation in package.refuses:
            assert not any(
                packages.is_met_by(relation, other) for other in chosen if other is not package
            )
