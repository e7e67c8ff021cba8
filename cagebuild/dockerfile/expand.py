"""Variables, quotes and escapes in the words of a Dockerfile, as BuildKit treats them.

Source: moby/buildkit, frontend/dockerfile/shell/lex.go. It looks like a shell and is none: no
commands, no arithmetic, no globs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cagebuild.dockerfile.wildcards import InvalidPatternError, Pattern

SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
SPACES += "\u2028\u2029\u202f\u205f\u3000"
"""What Go's unicode.IsSpace calls a space. Python's str.isspace has four more."""

_DEEPEST = 100
"""``${a:-${b:-…}}``: more than anyone writes, and less than what exhausts the stack."""
_END = ""


class ExpandError(ValueError):
    """A word that cannot be expanded; the text says why."""


class Expander:
    """Expands words for one escape character."""

    def __init__(self, escape: str) -> None:
        self._escape = escape

    def word(self, text: str, lookup: Mapping[str, str]) -> str:
        """One word: quotes and escapes gone, variables replaced, those not set by nothing.

        Knows ``$x ${x} ${x:-d} ${x:+d} ${x-d} ${x+d} ${x:?e} ${x?e} ${x#p} ${x##p} ${x%p} ${x%%p}
        ${x/p/r} ${x//p/r}``. Raises ExpandError.
        """
        return Lexer(text, self._escape, lookup).run()[0]

    def words(self, text: str, lookup: Mapping[str, str]) -> list[str]:
        """The same, then split at spaces that are not quoted, those of values included."""
        return Lexer(text, self._escape, lookup).run()[1]

    def unset(self, text: str, lookup: Mapping[str, str]) -> list[str]:
        """Which variables of the text have no value or an empty one; raises ExpandError."""
        lexer = Lexer(text, self._escape, lookup)
        lexer.run()
        return [name for name in dict.fromkeys(lexer.asked) if not lookup.get(name)]


class _Words:
    """Collects what a text falls into, beside the text itself."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._word: list[str] = []

    def split(self, text: str) -> None:
        for char in text:
            if char not in SPACES:
                self._word.append(char)
            elif any(self._word):
                self._finish()

    def keep(self, text: str) -> None:
        self._word.append(text)

    def all(self) -> list[str]:
        self._finish()
        return self._done

    def _finish(self) -> None:
        word = "".join(self._word)
        self._word.clear()
        if word:
            self._done.append(word)


class Lexer:
    """One pass over one text.

    ``raw`` keeps quotes, escapes and unknown variables as they are written, ``keep_unset`` only the
    variables: what the search for heredocs needs.
    """

    def __init__(
        self,
        text: str,
        escape: str,
        lookup: Mapping[str, str],
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
    ) -> None:
        self._text = text.removeprefix("\ufeff")
        self._at = 0
        self._escape = escape
        self._lookup = lookup
        self._raw_quotes = raw_quotes
        self._raw_escapes = raw_escapes
        self._keep_unset = keep_unset
        self._depth = 0
        self.asked: list[str] = []
        """The variables that the text names."""

    def run(self) -> tuple[str, list[str]]:
        """The whole text, and the words that it falls into."""
        return self._until(_END, raw=self._raw_escapes, pattern=False)

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else _END

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _until(self, stop: str, *, raw: bool, pattern: bool) -> tuple[str, list[str]]:
        """Up to a character or the end; ``pattern``: backslashes in quotes are doubled."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ExpandError("variables are nested too deeply")
        before, self._raw_escapes = self._raw_escapes, raw
        result: list[str] = []
        words = _Words()
        while (char := self._peek()) != stop:
            if char == _END:
                raise ExpandError(f"'{stop}' is missing after '${{'")
            text, put = self._piece(char, words, pattern=pattern)
            result.append(text)
            put(text)
        self._next()
        self._raw_escapes = before
        self._depth -= 1
        return "".join(result), words.all()

    def _piece(
        self, char: str, words: _Words, *, pattern: bool
    ) -> tuple[str, Callable[[str], None]]:
        """What stands next, and whether spaces in it part words."""
        if char == "$":
            return self._dollar(), words.split
        if char == "'":
            return self._single(pattern=pattern), words.keep
        if char == '"':
            return self._double(pattern=pattern), words.keep
        if char == "<":
            return self._less_than(), words.keep
        self._next()
        if char != self._escape:
            return char, words.split
        escaped = self._next()
        return (char if self._raw_escapes else "") + escaped, words.keep

    def _less_than(self) -> str:
        """``<<  EOF`` is one word."""
        start = self._at
        self._next()
        if self._peek() == "<":
            self._next()
            while self._peek() and self._peek() in "\t\r\n ":
                self._next()
        return self._text[start : self._at]

    def _single(self, *, pattern: bool) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise ExpandError("a single quote is not closed")
        inner = self._text[self._at + 1 : end]
        self._at = end + 1
        if pattern:
            inner = inner.replace(self._escape, self._escape * 2)
        return f"'{inner}'" if self._raw_quotes else inner

    def _double(self, *, pattern: bool) -> str:
        quote = self._next() if self._raw_quotes else (self._next() and "")
        result = [quote]
        while (char := self._peek()) != '"':
            if char == _END:
                raise ExpandError("a double quote is not closed")
            if char == "$":
                result.append(self._dollar())
                continue
            self._next()
            result.append(self._escaped(pattern=pattern) if char == self._escape else char)
        self._next()
        return "".join(result) + quote

    def _escaped(self, *, pattern: bool) -> str:
        """After an escape in double quotes, where it is only for three characters."""
        char = self._peek()
        if char == _END:
            return ""
        if char in {'"', "$", self._escape}:
            return (self._escape if self._raw_escapes else "") + self._next()
        doubled = self._raw_escapes and (not self._raw_quotes or pattern)
        return self._escape * (2 if doubled else 1)

    def _dollar(self) -> str:
        start = self._at
        self._next()
        if self._peek() != "{":
            name = self._name()
            return self._value(name, self._text[start : self._at]) if name else "$"
        self._next()
        if self._peek() == _END or self._peek() in "{}:":
            raise ExpandError("'${' is not followed by the name of a variable")
        name = self._name()
        operator = self._next()
        match operator:
            case "}":
                return self._value(name, f"${{{name}}}")
            case "/":
                return self._replaced(name)
            case ":" | "+" | "-" | "?" | "#" | "%":
                return self._modified(name, operator)
        if operator == _END:
            raise ExpandError("'}' is missing after '${'")
        raise ExpandError(f"'${{{name}{operator}…}}' is not a form of variable that there is")

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._next()
        elif first and first in "@*#?-$!":
            self._next()
        else:
            while (char := self._peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self._next()
        return self._text[start : self._at]

    def _get(self, name: str) -> str | None:
        self.asked.append(name)
        return self._lookup.get(name)

    def _value(self, name: str, written: str) -> str:
        value = self._get(name)
        if value is None:
            return written if self._keep_unset else ""
        return value

    def _modified(self, name: str, operator: str) -> str:
        written = operator
        if operator == ":":
            operator = self._next()
            written += operator
            if operator == _END or operator not in "+-?":
                raise ExpandError(
                    f"'${{{name}{written}…}}' is not a form of variable that there is"
                )
        trims = operator in "#%"
        word, _ = self._until("}", raw=trims, pattern=trims)
        value = self._get(name)
        if value is None and self._keep_unset:
            return f"${{{name}{written}{word}}}"
        usable = value is not None and not (written[0] == ":" and value == "")
        if trims:
            return self._trimmed(operator, word, value or "")
        if operator == "+":
            return word if usable else ""
        if operator == "-":
            return value or "" if usable else word
        if not usable:
            raise ExpandError(f"{name}: {word or 'it has no value'}")
        return value or ""

    def _trimmed(self, operator: str, word: str, value: str) -> str:
        longest = word.startswith(operator)
        pattern = _pattern(word[1:] if longest else word)
        if operator == "#":
            return pattern.without_prefix(value, longest=longest)
        return pattern.without_suffix(value, longest=longest)

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._next()
        pattern, _ = self._until("/", raw=True, pattern=True)
        replacement, _ = self._until("}", raw=True, pattern=False)
        value = self._get(name)
        if value is None and self._keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return _pattern(pattern).replaced(value or "", replacement, everywhere=everywhere)


def _pattern(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except InvalidPatternError as error:
        raise ExpandError(str(error)) from None
