"""The variables of a stage, and words with them put in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile.expand import Expander, ExpandError
from cagebuild.embedded.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUOTE: Final = re.compile(r"\\.|['\"]", re.DOTALL)


class Scope:
    """What ARG and ENV have set so far. The later one wins, whichever of the two it is."""

    def __init__(self, escape: str, variables: dict[str, str]) -> None:
        self._expander = Expander(escape)
        # Heredocs have this escape whatever the file says.
        self._plain = Expander("\\")
        self.variables = variables

    def set_env(self, env: Iterable[str]) -> None:
        """Take ``NAME=value`` of an image's config."""
        for text in env:
            name, _, value = text.partition("=")
            self.variables[name] = value

    def word(self, text: str) -> str:
        """One word, quotes and escapes gone; raises Refused."""
        try:
            return self._expander.word(text, self.variables)
        except ExpandError as error:
            raise Refused(str(error)) from error

    def words(self, text: str) -> list[str]:
        """Any number of words; raises Refused."""
        try:
            return self._expander.words(text, self.variables)
        except ExpandError as error:
            raise Refused(str(error)) from error

    def heredoc(self, content: str) -> str:
        """Lines of a heredoc, whose quotes mean nothing; raises Refused."""
        quoted = _QUOTE.sub(
            lambda found: found[0] if len(found[0]) > 1 else "\\" + found[0], content
        )
        try:
            return self._plain.word(quoted, self.variables)
        except ExpandError as error:
            raise Refused(str(error)) from error
