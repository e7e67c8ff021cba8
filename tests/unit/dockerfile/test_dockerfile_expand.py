"""Variables in words. What is expected was compared with moby/buildkit v0.34.2."""

from __future__ import annotations

import pytest

from cagebuild.dockerfile.expand import Expander, ExpandError

SET = {"x": "abcab/ba.b", "empty": "", "two": "q r", "é": "E", "tag": "1.2.3"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$x", "abcab/ba.b"),
        ("a${x}b", "aabcab/ba.bb"),
        ("$unset|${unset}", "|"),
        ("$é", "E"),
        ("$x$", "abcab/ba.b$"),
        ("$ $/", "$ $/"),
        ("$1a", "a"),
        ("${unset:-d}|${unset-d}|${empty:-d}|${empty-d}", "d|d|d|"),
        ("${x:+d}|${x+d}|${empty:+d}|${empty+d}|${unset+d}", "d|d||d|"),
        ("${x:?e}|${x?e}|${empty?e}", "abcab/ba.b|abcab/ba.b|"),
        ("${unset:-${two:-z}}", "q r"),
        ("${unset:-'a}'}", "a}"),
        ("${x#a}|${x#*b}|${x##*b}", "bcab/ba.b|cab/ba.b|"),
        ("${x%b}|${x%b*}|${x%%b*}", "abcab/ba.|abcab/ba.|a"),
        ("${x#?}|${x%?}|${x#zz}", "bcab/ba.b|abcab/ba.|abcab/ba.b"),
        ("${tag%.*}|${tag%%.*}|${tag#*.}|${tag##*.}", "1.2|1|2.3|3"),
        ("${x/b/_}|${x//b/_}|${x//a?/_}", "a_cab/ba.b|a_ca_/_a._|_c_/b_b"),
        ("${x/a*b/_}|${x//\\//-}", "_|abcab-ba.b"),
        ("${x//b/[$0]}", "a[]ca[]/[]a.[]"),
        ("'$x'", "$x"),
        ('"$x y"', "abcab/ba.b y"),
        ('"a\\"b\\$c\\d"', 'a"b$c\\d'),
        ("a\\ b\\$x", "a b$x"),
        ("a\\", "a"),
        ("'a'\"b\"c", "abc"),
        ("<<  EOF", "<<  EOF"),
        ("\ufeffa", "a"),
    ],
)
def test_one_word(text: str, value: str) -> None:
    assert Expander("\\").word(text, SET) == value


def test_the_other_escape_character() -> None:
    assert Expander("`").word("c:\\$tag`$x", SET) == "c:\\1.2.3$x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("  a\tb ", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        ("$two", ["q", "r"]),
        ('"$two"', ["q r"]),
        ("a\\ b", ["a b"]),
        ("80 $empty 81", ["80", "81"]),
        ("", []),
    ],
)
def test_several_words(text: str, words: list[str]) -> None:
    assert Expander("\\").words(text, SET) == words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("'a", "a single quote is not closed"),
        ('"a', "a double quote is not closed"),
        ("${x", "'}' is missing after '${'"),
        ("${x:-d", "'}' is missing after '${'"),
        ("${", "'${' is not followed by the name of a variable"),
        ("${}", "'${' is not followed by the name of a variable"),
        ("${x^}", "'${x^…}' is not a form of variable that there is"),
        ("${x:z}", "'${x:z…}' is not a form of variable that there is"),
        ("${unset:?}", "unset: it has no value"),
        ("${empty:?say why}", "empty: say why"),
        ("${x/a}", "'/' is missing after '${'"),
        ("${x#\\a}", "'\\a' has no meaning in a pattern"),
        ("${a:-" * 200, "variables are nested too deeply"),
    ],
)
def test_what_cannot_be_expanded(text: str, reason: str) -> None:
    with pytest.raises(ExpandError) as caught:
        Expander("\\").word(text, SET)
    assert str(caught.value) == reason


def test_which_variables_have_no_value() -> None:
    assert Expander("\\").unset("$x$unset${empty}${gone:-d}$unset", SET) == [
        "unset",
        "empty",
        "gone",
    ]


@pytest.mark.timeout(20)
def test_patterns_take_linear_time() -> None:
    value = {"x": "a" * 20_000}
    for form in ("${x#%s}", "${x##%s}", "${x%%%%%s}", "${x//%s/y}"):
        pattern = "*a" * 50 + "b"
        assert Expander("\\").word(form % pattern, value) == value["x"]
