"""Free words after a task: flags may stand anywhere among them, and no word is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from invoke.parser import Parser
from invoke.parser.context import ParserContext

from cagebuild.cli import command

words = st.from_regex(r"[a-z0-9/][a-z0-9/.:_-]{0,8}", fullmatch=True).filter(
    lambda word: word not in {"first", "second"}
)
FLAGS = {
    "plain": ["--verbose"],
    "short": ["-v"],
    "valued": ["--jobs", "3"],
    "equals": ["--jobs=3"],
    "short valued": ["-j3"],
}


@command(name="first")
def _first(context: Any, words: tuple[str, ...] = (), jobs: int = 0, verbose: bool = False) -> None:
    """Runs nothing."""


@command(name="second")
def _second(context: Any, words: tuple[str, ...] = ()) -> None:
    """Runs nothing."""


def parsed(argv: list[str]) -> list[tuple[str | None, dict[str, Any]]]:
    """Tasks and their arguments, as invoke's parser sees them."""
    contexts = [
        ParserContext(name=task.name, args=task.get_arguments()) for task in (_first, _second)
    ]
    found = Parser(contexts=contexts, initial=ParserContext()).parse_argv(argv)
    return [(each.name, each.as_kwargs) for each in found if each.name]


@given(st.lists(words, max_size=5), st.sampled_from(sorted(FLAGS)), st.integers(0, 5))
def test_a_flag_may_stand_anywhere(given: list[str], flag: str, at: int) -> None:
    argv = ["first", *given[:at], *FLAGS[flag], *given[at:]]
    ((name, arguments),) = parsed(argv)
    assert name == "first"
    assert arguments["words"] == tuple(given)
    assert (arguments["jobs"], arguments["verbose"]) in {(3, False), (0, True)}


@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_each_task_has_its_own_words(one: list[str], other: list[str]) -> None:
    found = parsed(["first", *one, "second", *other, "first"])
    assert [(name, arguments["words"]) for name, arguments in found] == [
        ("first", tuple(one)),
        ("second", tuple(other)),
        ("first", ()),
    ]
