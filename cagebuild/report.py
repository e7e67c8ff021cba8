"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from cagebuild.execute import Reporter


def reporter(stream: TextIO, *, verbose: bool = False, explain: bool = False) -> Reporter:
    """Bars if ``stream`` is a terminal that can show them, else plain lines.

    ``verbose`` shows hits too; ``explain`` says for each step that ran what changed.
    """
    raise NotImplementedError
