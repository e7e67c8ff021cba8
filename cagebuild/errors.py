"""The catalogue of errors: one class and one exit code for each kind of failure.

A CageError is a failure that a user can act on. It says what failed, why, and what to do next; the
command line prints it and exits with its code. Anything else that escapes is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One mistake at one place of a file. Lines and columns count from 1; 0 is 'unknown'."""

    file: Path
    line: int = 0
    column: int = 0
    width: int = 1
    key: str = ""
    message: str
    source_line: str = ""
    hint: str = ""

    def render(self) -> str:
        """``file:line:column: key: message``, the line with a caret under it, and the hint."""
        place = str(self.file)
        if self.line:
            place += f":{self.line}:{max(self.column, 1)}"
        text = f"{place}: {self.key + ': ' if self.key else ''}{self.message}"
        if self.line and self.source_line:
            number = str(self.line)
            shown = self.source_line.replace("\t", " ")
            mark = "^" + "~" * (min(self.width, len(shown) - max(self.column, 1) + 1) - 1)
            margin = " " * len(number)
            text += f"\n  {number} | {shown}\n  {margin} | {' ' * (max(self.column, 1) - 1)}{mark}"
        if self.hint:
            text += f"\n  help: {self.hint}"
        return text


class CageError(Exception):
    """A failure with a message, a next step (``hint``) and an exit code of its kind."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """What the command line prints: the message, then the next step."""
        return self.message + (f"\n  help: {self.hint}" if self.hint else "")


class UsageError(CageError):
    """A command was called with words that name nothing: a target, an option, a file."""

    exit_code = 2


class MistakesError(CageError):
    """Mistakes in files of one kind, all of them at once."""

    where: ClassVar[str]
    """What they are in."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        self.diagnostics = diagnostics
        count = len(diagnostics)
        super().__init__(f"{count} mistake{'s' if count != 1 else ''} in the {self.where}")

    def render(self) -> str:
        """Every diagnostic in file order, then their number."""
        return "\n\n".join([*(d.render() for d in self.diagnostics), self.message])


class ConfigError(MistakesError):
    """Mistakes in cage.toml files."""

    exit_code = 10
    where = "configuration"


class ConfigSyntaxError(ConfigError):
    """A cage.toml that is not TOML."""

    exit_code = 11


class SourceError(CageError):
    """A file that the cage names is missing, untracked, or of a kind that cannot be added."""

    exit_code = 12


class DockerfileError(MistakesError):
    """Mistakes in a Dockerfile or a .dockerignore."""

    exit_code = 13
    where = "Dockerfile"


class LockError(CageError):
    """cage.lock is missing, or cannot be read."""

    exit_code = 20


class StaleLockError(LockError):
    """cage.lock was made from another cage.toml than the one at hand."""

    exit_code = 21


class ResolveError(CageError):
    """A name could not be turned into a pin: no such package, version, image or suite."""

    exit_code = 22


class FetchError(CageError):
    """A pinned file could be had from none of its locations."""

    exit_code = 30


class DigestMismatchError(FetchError):
    """What was fetched is not what the lock names."""

    exit_code = 31


class SignatureError(CageError):
    """A signature is missing, unknown or wrong."""

    exit_code = 32


class ToolMissingError(CageError):
    """A program that this step needs is not on this machine."""

    exit_code = 40


class ToolFailedError(CageError):
    """A program ran and failed."""

    exit_code = 41


class UnsupportedError(CageError):
    """Understood, but not something that this version or engine can build."""

    exit_code = 42


class ImageError(CageError):
    """An image, archive or package that is malformed, hostile, or cannot be represented."""

    exit_code = 50


class EifError(CageError):
    """An enclave image file that is malformed, or one that cannot be written."""

    exit_code = 51


class SigningError(CageError):
    """A signing key or certificate that cannot be read, or that do not belong together."""

    exit_code = 52


class MeasurementError(CageError):
    """A PCR is not the expected one."""

    exit_code = 60


class StoreError(CageError):
    """The local store cannot be used: no space, no permission, not a store."""

    exit_code = 70


class BuildFailedError(CageError):
    """One or more steps failed; each has been reported."""

    exit_code = 71


class InterruptedBuildError(CageError):
    """Stopped by Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = 130
