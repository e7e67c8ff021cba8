"""Invoke, taught two things: optional words after a task's name, and errors without tracebacks.

Invoke's parser knows required positional arguments only. A cage's address is an optional one, and
there may be several: ``invoke build //services/pay //services/mail``. ``Words`` is an argument that
takes every word that is not the name of another task; two methods of the parser are wrapped for it.
"""

from __future__ import annotations

import functools
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task, task

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = "words"
"""The name of the parameter that takes a task's free words."""


class Words(Argument):
    """Zero or more words. Missing as long as the parser is at its task, so it takes more."""

    def __init__(self, description: str | None) -> None:
        super().__init__(name=WORDS, positional=True, help=description)
        self.taken: list[str] = []
        self.closed = False

    @property
    def value(self) -> tuple[str, ...] | None:
        """None until the parser has left the task."""
        return tuple(self.taken) if self.closed else None

    @value.setter
    def value(self, word: str) -> None:
        self.taken.append(word)


class Number(Argument):
    """A whole number. Invoke's own argument lets int's ValueError through as a traceback."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        """Take the text of the command line; raises ParseError."""
        try:
            super().set_value(value, cast)
        except ValueError:
            raise ParseError(f"--{self.name} {value}: expected a whole number") from None


class CageTask(Task[Any]):
    """A task whose ``words`` parameter is a ``Words`` argument."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Invoke's arguments for the signature, with the free words among them."""
        found = super().get_arguments(ignore_unknown_help=ignore_unknown_help)
        return [_own(given) for given in found]


def _own(given: Argument) -> Argument:
    if given.name == WORDS:
        return Words(given.help)
    if given.kind is int:
        return Number(
            names=given.names,
            kind=int,
            default=given.default,
            help=given.help,
            attr_name=given.attr_name,
        )
    return given


def _complete_context(self: ParseMachine) -> None:
    for given in getattr(self.context, "positional_args", ()):
        if isinstance(given, Words):
            given.closed = True
    _plain_complete_context(self)


def _see_positional_arg(self: ParseMachine, value: Any) -> None:
    missing = self.context.missing_positional_args
    if not all(isinstance(given, Words) for given in missing):
        _plain_see_positional_arg(self, value)
    elif value in self.contexts:
        self.see_context(value)
    elif value.startswith("-"):
        _see_program_flag(self, value)
    else:
        _plain_see_positional_arg(self, value)


def _see_program_flag(machine: ParseMachine, value: str) -> None:
    """``invoke build --help``: invoke tries its own flags only where no positional is missing."""
    flags = machine.initial.flags
    if value not in flags:
        machine.error(f"No idea what {value!r} is!")
    elif flags[value].name == "help":
        flags[value].value = machine.context.name
    else:
        machine.switch_to_flag(value)


_plain_complete_context = ParseMachine.complete_context
_plain_see_positional_arg = ParseMachine.see_positional_arg
ParseMachine.complete_context = _complete_context  # type: ignore[method-assign]
ParseMachine.see_positional_arg = _see_positional_arg  # type: ignore[method-assign]

# Invoke turns byte code off for the sake of tasks.py; every start would compile this package anew.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))


def command(**options: Any) -> Callable[[Callable[..., None]], Task[Any]]:
    """Declare a task as invoke's ``task`` does, with free words and errors as exit codes."""

    def declare(body: Callable[..., None]) -> Task[Any]:
        @functools.wraps(body)
        def guarded(context: object, **arguments: Any) -> None:
            with_errors(functools.partial(body, context, **arguments))

        made: Task[Any] = task(klass=CageTask, **options)(guarded)
        return made

    return declare


def with_errors(work: Callable[[], None]) -> None:
    """Run ``work``; a failure that a user can act on is printed and ends with its exit code."""
    from cagebuild.errors import CageError, InterruptedBuildError, UsageError
    from cagebuild.report import printable

    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold what the terminal's encoding cannot show, or no text at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.getfilesystemencoding() != "utf-8":
            # The bytes of a name would be other text than on other machines: another result.
            raise UsageError(
                f"this locale reads names of files as {sys.getfilesystemencoding()}, not as UTF-8",
                hint="set PYTHONUTF8=1",
            )
        work()
        sys.stdout.flush()
    except CageError as error:
        raise Exit(printable(f"error: {error.render()}"), code=error.exit_code) from None
    except KeyboardInterrupt:
        # Invoke's own code is 1, which says that something is wrong.
        raise Exit(code=InterruptedBuildError.exit_code) from None
    except BrokenPipeError:
        # Whoever read our output has enough of it; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(code=141) from None
