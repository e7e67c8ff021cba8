"""Dependency closures: every feature of a relation, each by itself."""

from __future__ import annotations

import pytest

from cagebuild.debian.resolve import resolve
from cagebuild.errors import ResolveError
from tests.support.debian import stanza, universe


def closure(asked: str, *stanzas: str) -> list[str]:
    """Names, with the version where it isn't 1.0, of what is chosen."""
    packages = resolve(universe(*stanzas), asked.split())
    return [p.name if p.version == "1.0" else f"{p.name}={p.version}" for p in packages]


def refusal(asked: str, *stanzas: str) -> str:
    with pytest.raises(ResolveError) as caught:
        resolve(universe(*stanzas), asked.split())
    return caught.value.render()


def test_depends_and_pre_depends_are_followed_and_nothing_else_is() -> None:
    assert closure(
        "a",
        stanza("a", depends="b", recommends="r", suggests="s", enhances="e"),
        stanza("b", pre_depends="c"),
        *(stanza(name) for name in "cres"),
        stanza("essential", essential="yes", priority="required"),
    ) == ["a", "b", "c"]


def test_cycles_end() -> None:
    assert closure("a", stanza("a", depends="b"), stanza("b", depends="a, b")) == ["a", "b"]


def test_the_first_alternative_is_taken() -> None:
    assert closure("a", stanza("a", depends="c | b"), stanza("b"), stanza("c")) == ["a", "c"]


def test_an_alternative_that_is_not_there_is_passed_over() -> None:
    assert closure("a", stanza("a", depends="x | b"), stanza("b")) == ["a", "b"]


def test_an_alternative_of_a_wrong_version_is_passed_over() -> None:
    assert closure("a", stanza("a", depends="c (>= 2) | b"), stanza("b"), stanza("c")) == ["a", "b"]


def test_an_alternative_whose_own_dependencies_fail_deep_down_is_passed_over() -> None:
    assert closure(
        "a",
        stanza("a", depends="c | b"),
        stanza("b"),
        stanza("c", depends="d"),
        stanza("d", depends="e"),
        stanza("e", depends="missing"),
    ) == ["a", "b"]


def test_an_alternative_that_is_chosen_already_is_preferred() -> None:
    stanzas = stanza("a", depends="c | b"), stanza("b"), stanza("c"), stanza("z", depends="b")
    assert closure("a z", *stanzas) == ["a", "b", "z"]
    assert closure("a b", *stanzas) == ["a", "b"]


def test_an_alternative_that_a_later_name_needs_is_preferred_whatever_the_order() -> None:
    stanzas = (
        stanza("a", depends="b1 | b2"),
        stanza("b1"),
        stanza("b2"),
        stanza("z", depends="y"),
        stanza("y", depends="b2"),
    )
    assert closure("a z", *stanzas) == closure("z a", *stanzas) == ["a", "b2", "y", "z"]


def test_open_dependencies_are_decided_in_the_order_of_names() -> None:
    """Of each pair the first one's wish is met, so that the second one's is met already."""
    pairs = [(f"{letter}1", f"{letter}2", f"x{letter}", f"y{letter}") for letter in "abcdefghijkl"]
    stanzas = [
        text
        for one, two, x, y in pairs
        for text in (
            stanza(one, depends=f"{x} | {y}"),
            stanza(two, depends=f"{y} | {x}"),
            stanza(x),
            stanza(y),
        )
    ]
    asked = " ".join(f"{two} {one}" for one, two, _, _ in pairs)
    expected = sorted(name for one, two, x, _ in pairs for name in (one, two, x))
    assert closure(asked, *stanzas) == expected


def test_an_alternative_that_conflicts_with_what_is_chosen_is_passed_over() -> None:
    stanzas = stanza("a", depends="b | c"), stanza("b", conflicts="z"), stanza("c"), stanza("z")
    assert closure("a z", *stanzas) == ["a", "c", "z"]
    assert closure("a", *stanzas) == ["a", "b"]


def test_a_virtual_package_is_met_by_its_only_provider() -> None:
    assert closure("a", stanza("a", depends="v"), stanza("p", provides="w, v")) == ["a", "p"]


def test_of_several_providers_the_one_of_highest_priority_is_taken_then_the_first_by_name() -> None:
    stanzas = (
        stanza("a", depends="v"),
        stanza("p1", provides="v", priority="optional"),
        stanza("p2", provides="v", priority="optional"),
    )
    assert closure("a", *stanzas) == ["a", "p1"]
    assert closure("a", *stanzas, stanza("q", provides="v", priority="required")) == ["a", "q"]
    assert closure("a p2", *stanzas) == ["a", "p2"]


def test_a_real_package_comes_before_one_that_provides_its_name() -> None:
    assert closure(
        "a", stanza("a", depends="v"), stanza("b", provides="v", priority="required"), stanza("v")
    ) == ["a", "v"]


def test_a_provider_meets_a_version_only_with_a_version_of_its_own() -> None:
    needs = stanza("a", depends="v (>= 2)")
    assert closure("a", needs, stanza("p", provides="v (= 2.1)")) == ["a", "p"]
    assert "cannot be installed" in refusal("a", needs, stanza("p", provides="v (= 1)"))
    assert "cannot be installed" in refusal("a", needs, stanza("p", "5", provides="v"))


def test_a_real_package_that_is_too_old_gives_way_to_a_provider() -> None:
    assert closure(
        "a", stanza("a", depends="v (>= 2)"), stanza("v"), stanza("p", provides="v (= 2)")
    ) == ["a", "p"]


@pytest.mark.parametrize(
    ("relation", "met"),
    [("= 1.0", True), (">= 1.0", True), ("<= 1.0", True), (">> 1.0", False), ("<< 1.0", False)],
)
def test_versions_are_compared(relation: str, met: bool) -> None:
    stanzas = stanza("a", depends=f"b ({relation})"), stanza("b")
    if met:
        assert closure("a", *stanzas) == ["a", "b"]
    else:
        assert f"a 1.0 needs b ({relation})\n  there is b 1.0" in refusal("a", *stanzas)


def test_any_needs_a_package_that_allows_it() -> None:
    needs = stanza("a", depends="b:any")
    assert closure("a", needs, stanza("b", multi_arch="allowed")) == ["a", "b"]
    assert "a 1.0 needs b:any" in refusal("a", needs, stanza("b", multi_arch="foreign"))


def test_an_architecture_is_the_own_one_and_all_counts_as_it() -> None:
    assert closure("a", stanza("a", depends="b:amd64"), stanza("b")) == ["a", "b"]
    everywhere = stanza("b", architecture="all")
    assert closure("a", stanza("a", depends="b:amd64"), everywhere) == ["a", "b"]
    assert "b:arm64" in refusal("a", stanza("a", depends="b:arm64"), stanza("b"))


def test_packages_of_another_architecture_are_not_there() -> None:
    assert "no package b for amd64" in refusal("b", stanza("b", architecture="arm64"))


def test_a_name_with_an_architecture_must_have_the_own_one() -> None:
    assert closure("a:amd64", stanza("a")) == ["a"]
    assert "one architecture, amd64" in refusal("a:arm64", stanza("a"))


def test_the_highest_version_is_the_candidate() -> None:
    versions = [stanza("a", version) for version in ("1.9", "1.10", "1.10~rc1")]
    assert closure("a", *versions) == closure("a", *reversed(versions)) == ["a=1.10"]


def test_a_version_can_be_named_and_its_dependents_see_it() -> None:
    stanzas = stanza("b", "1.0"), stanza("b", "2.0"), stanza("a", depends="b")
    assert closure("a b=1.0", *stanzas) == closure("b=1.0 a", *stanzas) == ["a", "b"]
    assert closure("b b=1.0", *stanzas) == ["b"]
    strict = stanza("c", depends="b (>= 2)")
    assert "c 1.0 needs b (>= 2)\n  there is b 1.0" in refusal("c b=1.0", *stanzas, strict)


def test_a_version_that_is_not_there_is_refused_with_those_that_are() -> None:
    text = refusal("b=3", stanza("b", "1.0"), stanza("b", "2.0"))
    assert "b has no version 3 in trial" in text
    assert "2.0, 1.0" in text


def test_two_versions_of_one_name_are_refused() -> None:
    assert "two versions of b" in refusal("b=1.0 b=2.0", stanza("b", "1.0"), stanza("b", "2.0"))


@pytest.mark.parametrize("name", ["", "a/b", "a=", "a=1 2", "-a", "../a", "a=1/../2"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ResolveError):
        resolve(universe(stanza("a")), [name])


def test_a_later_suite_with_a_higher_version_wins() -> None:
    packages = universe(stanza("a", "1.0"), stanza("b", "1.0"))
    packages.add((stanza("a", "1.0+deb1") + "\n" + stanza("b", "0.9")).encode(), "trial-security")
    chosen = resolve(packages, ["a", "b"])
    assert [(p.version, p.suite) for p in chosen] == [
        ("1.0+deb1", "trial-security"),
        ("1.0", "trial"),
    ]


def test_a_missing_name_is_refused_with_names_like_it() -> None:
    text = refusal("pyhton3", stanza("python3"), stanza("perl"))
    assert "there is no package pyhton3 for amd64 in trial" in text
    assert "did you mean python3?" in text


def test_a_virtual_name_is_refused_with_its_providers() -> None:
    text = refusal("awk", stanza("gawk", provides="awk"), stanza("mawk", provides="awk"))
    assert "awk is not a package" in text
    assert "gawk, mawk" in text


def test_what_cannot_be_installed_is_refused_with_the_way_there() -> None:
    text = refusal(
        "a",
        stanza("a", depends="ok, b"),
        stanza("ok"),
        stanza("b", depends="c | d"),
        stanza("c", depends="gone (>= 3) | never"),
        stanza("d", depends="c"),
        stanza("gone", "2.0"),
    )
    assert text.splitlines()[:6] == [
        "a 1.0 cannot be installed from trial",
        "  a 1.0 needs b",
        "  b 1.0 needs c | d",
        "  c 1.0 needs gone (>= 3) | never",
        "  there is gone 2.0",
        "  no package is called never or provides what is asked for",
    ]


@pytest.mark.parametrize("word", ["conflicts", "breaks"])
def test_packages_that_refuse_each_other_are_an_error_that_says_why_both_are_there(
    word: str,
) -> None:
    text = refusal(
        "a c",
        stanza("a", depends="b"),
        stanza("b", **{word: "d (<< 2)"}),
        stanza("c", depends="d"),
        stanza("d"),
    )
    assert "b 1.0 conflicts with d 1.0: it refuses d (<< 2)" in text
    assert "b, needed by a, which was asked for" in text
    assert "d, needed by c, which was asked for" in text


def test_a_conflict_with_another_version_is_none() -> None:
    assert closure("a b", stanza("a", conflicts="b (<< 1.0)"), stanza("b")) == ["a", "b"]


def test_a_conflict_with_a_provided_name_counts() -> None:
    stanzas = stanza("a", conflicts="mta"), stanza("b", provides="mta")
    assert "a 1.0 conflicts with b 1.0: it refuses mta" in refusal("a b", *stanzas)


def test_a_package_does_not_conflict_with_itself() -> None:
    alone = stanza("a", conflicts="mta", provides="mta")
    assert closure("a", alone) == ["a"]
    assert "conflicts" in refusal("a b", alone, stanza("b", conflicts="mta", provides="mta"))


def test_packages_that_are_not_chosen_conflict_with_nothing() -> None:
    assert closure("a", stanza("a", conflicts="b"), stanza("b", conflicts="a")) == ["a"]


def test_repeated_names_count_once() -> None:
    assert closure("a a", stanza("a")) == ["a"]


def test_no_names_need_nothing() -> None:
    assert closure("", stanza("a")) == []
