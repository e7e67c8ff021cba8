"""What an instruction fails with, before it is known which one it is."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 - it becomes an error when it is known where it stands
    """An instruction cannot be carried out; the text says why."""

    def __init__(self, message: str, *, hint: str = "", unsupported: bool = False) -> None:
        """``unsupported``: an engine could do it."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.unsupported = unsupported


def shown(name: bytes) -> str:
    """A path for people: with its leading slash, and what is no text escaped."""
    return "/" + name.decode("utf-8", "backslashreplace")
