"""The simple commands of a shell script, well enough to say what a RUN does.

No shell is needed for that and none is imitated: quotes, substitutions, comments, redirections and
heredocs are understood, so that ``echo "apt-get install x"`` is an echo; what a script does with
functions, loops and conditions is not. Never raises: what cannot be understood gives no commands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_DEEPEST = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=", re.ASCII)
_HEREDOC = re.compile(r"<<(-?)[ \t]*(['\"]?)([A-Za-z0-9_.-]+)\2")
_RESERVED = frozenset({"if", "then", "elif", "else", "while", "until", "do", "{", "!", "time"})
_LISTS = frozenset({"for", "select", "case", "function"})
_WRAPPERS = frozenset(
    {"command", "doas", "eatmydata", "env", "exec", "nice", "nohup", "stdbuf", "sudo", "builtin"}
)
SHELLS = frozenset({"ash", "bash", "dash", "ksh", "sh", "su", "zsh"})


@dataclass(slots=True)
class Command:
    """One program with its arguments, quotes gone, variables and substitutions as they are."""

    words: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where in the script each word ends; of those in ``sh -c '…'`` nearly."""
    variables: set[str] = field(default_factory=set)
    inner: list[Command] = field(default_factory=list)
    """What runs in its ``$(…)``."""
    writes: bool = False
    """Its output goes into a file."""
    piped: bool = False
    """Its output goes into another program."""
    captured: bool = False
    """Its output becomes part of another command or of a variable."""

    @property
    def program(self) -> str:
        """Its name, without folders."""
        return self.words[0].rpartition("/")[2] if self.words else ""


def commands(script: str, *, at: int = 0, depth: int = 0) -> list[Command]:
    """Every simple command of a script, those of ``sh -c`` and of ``$(…)`` included.

    ``at`` is where the script stands in a larger text.
    """
    if depth > _DEEPEST:
        return []
    found: list[Command] = []
    for command in _Scanner(script, at).script(""):
        found += _flattened(command, depth)
    return found


def of_words(words: tuple[str, ...]) -> list[Command]:
    """The same of an argument vector."""
    return _flattened(Command(words=list(words), places=[0] * len(words)), 0)


def _flattened(command: Command, depth: int) -> list[Command]:
    start = _start(command.words)
    command.words, command.places = command.words[start:], command.places[start:]
    found = [command]
    number = _script_word(command.words) if command.program in SHELLS else 0
    if number:
        script = command.words[number]
        at = max(command.places[number] - len(script) - 1, 0)
        found += commands(script, at=at, depth=depth + 1)
    shows = command.program in {"echo", "printf"} and not (command.writes or command.piped)
    for inner in command.inner:
        inner.captured = not shows
        if depth <= _DEEPEST:
            found += _flattened(inner, depth + 1)
    return found


def _start(words: list[str]) -> int:
    """Where the program stands: behind assignments, reserved words, ``sudo -E`` and the like."""
    at = 0
    while at < len(words):
        word = words[at]
        if word in _WRAPPERS:
            at += 1
            while at < len(words) and (words[at].startswith("-") or words[at].isdigit()):
                at += 1
        elif word in _RESERVED or _ASSIGNMENT.match(word):
            at += 1
        else:
            break
    return at


def _script_word(words: list[str]) -> int:
    """Which word follows ``-c``, or ``-ec`` and the like; 0 if none does."""
    for at, word in enumerate(words[1:-1], 1):
        if word.startswith("-") and not word.startswith("--") and word.endswith("c"):
            return at + 1
    return 0


class _Scanner:
    """Goes through a script once."""

    def __init__(self, text: str, offset: int) -> None:
        self._text = text
        self._offset = offset
        self._at = 0
        self._depth = 0
        self._bodies: list[tuple[str, bool]] = []
        """Heredocs whose lines begin after this one: their names, and whether tabs are dropped."""

    def script(self, closer: str) -> list[Command]:
        """The commands up to a closing character, which is passed over, or up to the end."""
        self._depth += 1
        found: list[Command] = []
        current = _Building()
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == closer:
                self._at += 1
                break
            if char in " \t\r":
                current.end_word(self._offset + self._at)
                self._at += 1
            elif char in ";&|\n()":
                self._separator(char, current, found)
            else:
                self._piece(char, current)
        current.finish(found, self._offset + self._at)
        self._depth -= 1
        return found

    def _separator(self, char: str, current: _Building, found: list[Command]) -> None:
        twice = self._text.startswith(char * 2, self._at) and char in "&|;"
        current.command.piped = char == "|" and not twice
        current.finish(found, self._offset + self._at)
        self._at += 2 if twice else 1
        if char == "\n":
            self._skip_bodies()
        elif char == "(" and self._depth < _DEEPEST:
            found += self.script(")")

    def _piece(self, char: str, current: _Building) -> None:
        if char == "#" and not current.in_word:
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end
        elif char == "'":
            end = self._text.find("'", self._at + 1)
            end = len(self._text) if end < 0 else end
            current.add(self._text[self._at + 1 : end])
            self._at = end + 1
        elif char == '"':
            self._double(current)
        elif char == "\\":
            escaped = self._text[self._at + 1 : self._at + 2]
            current.add("" if escaped == "\n" else escaped, empty=escaped == "\n")
            self._at += 2
        elif char in "<>":
            self._redirection(char, current)
        elif char in "$`":
            self._dollar(char, current)
        else:
            current.add(char)
            self._at += 1

    def _double(self, current: _Building) -> None:
        self._at += 1
        current.add("")
        while self._at < len(self._text) and (char := self._text[self._at]) != '"':
            if char == "\\":
                current.add(self._text[self._at + 1 : self._at + 2].replace("\n", ""))
                self._at += 2
            elif char in "$`":
                self._dollar(char, current)
            else:
                current.add(char)
                self._at += 1
        self._at += 1

    def _dollar(self, char: str, current: _Building) -> None:
        start = self._at
        self._at += 1
        if char == "`" or (
            self._text.startswith("(", self._at) and not self._text.startswith("((", self._at)
        ):
            self._at += char == "$"
            if self._depth < _DEEPEST:
                current.command.inner += self.script(")" if char == "$" else "`")
            current.add("$()")
            return
        if self._text.startswith("((", self._at):
            self._to("))")
        elif self._text.startswith("{", self._at):
            self._to("}")
        name = _NAME.match(self._text, start + 1 + self._text.startswith("{", start + 1))
        if name:
            current.command.variables.add(name[0])
            self._at = max(self._at, name.end())
        current.add(self._text[start : self._at])

    def _to(self, end: str) -> None:
        at = self._text.find(end, self._at)
        self._at = len(self._text) if at < 0 else at + len(end)

    def _redirection(self, char: str, current: _Building) -> None:
        heredoc = _HEREDOC.match(self._text, self._at)
        current.drop_number(self._offset + self._at)
        if heredoc and not self._text.startswith("<<<", self._at):
            self._bodies.append((heredoc[3], bool(heredoc[1])))
            self._at = heredoc.end()
            return
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in "<>&|":
            self._at += 1
        operator = self._text[start : self._at]
        if self._text.startswith("(", self._at):
            return  # <(…): the separator takes it for a subshell, whose commands are what counts
        current.redirect = "out" if char == ">" and "&" not in operator else "in"

    def _skip_bodies(self) -> None:
        for name, tabs in self._bodies:
            while self._at < len(self._text):
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._text[self._at : end]
                self._at = end + 1
                if (line.lstrip("\t") if tabs else line) == name:
                    break
        self._bodies.clear()


class _Building:
    """A command of which not all has been seen."""

    def __init__(self) -> None:
        self.command = Command()
        self.in_word = False
        self.redirect = ""
        """``in`` or ``out``: the next word is a file."""
        self._word: list[str] = []

    def add(self, text: str, *, empty: bool = False) -> None:
        self.in_word = self.in_word or not empty
        self._word.append(text)

    def drop_number(self, at: int) -> None:
        """``2`` of ``2>file`` is no argument."""
        if "".join(self._word).isdigit():
            self._word.clear()
            self.in_word = False
        self.end_word(at)

    def end_word(self, at: int) -> None:
        if not self.in_word:
            self._word.clear()
            return
        word = "".join(self._word)
        if self.redirect:
            kept = self.redirect == "out" and word not in {
                "/dev/null",
                "/dev/stdout",
                "/dev/stderr",
            }
            self.command.writes = self.command.writes or kept
            self.redirect = ""
        elif not (word in _RESERVED and not self.command.words):
            self.command.words.append(word)
            self.command.places.append(at)
        self._word.clear()
        self.in_word = False

    def finish(self, found: list[Command], at: int) -> None:
        self.end_word(at)
        command = self.command
        if command.words[:1] and command.words[0] in _LISTS:
            command.words, command.places = [], []
        if command.words or command.inner:
            found.append(command)
        self.command = Command()
        self.redirect = ""
