"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO, assert_never

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

    from cagebuild.execute import Outcome, Reporter, Summary
    from cagebuild.step import Step

_STYLES = {"failed": "bold red", "skipped": "yellow", "note": "yellow", "hit": "dim"}
_FIRST_WORD = 60.0
"""Seconds until a step that is not over is spoken of, then after twice as long, and so on."""
_BETWEEN_UPDATES = 0.05
"""Seconds; a step may say how far it is for every block that it reads."""


def reporter(stream: TextIO, *, verbose: bool = False, explain: bool = False) -> Reporter:
    """Bars if ``stream`` is a terminal that can show them, else plain lines.

    ``verbose`` shows hits too; ``explain`` says for each step that ran what changed.
    """
    kind = TerminalReporter if stream.isatty() else PlainReporter
    return kind(stream, verbose=verbose, explain=explain)


class PlainReporter:
    """One line for each step that is over. Never a part of one, never an escape sequence."""

    def __init__(self, stream: TextIO, *, verbose: bool = False, explain: bool = False) -> None:
        self._stream = stream
        self._verbose = verbose
        self._explain = explain
        self._total = 0
        self._over: set[str] = set()
        self._next_word: dict[str, tuple[float, float]] = {}

    def begin(self, total: int) -> None:
        """The run has that many steps."""
        self._total = total

    def started(self, step: Step) -> None:
        """Nothing to see: a line comes when the step is over."""
        self._next_word[step.id] = (time.monotonic(), _FIRST_WORD)

    def progress(self, step: Step, done: int, total: int | None) -> None:  # noqa: ARG002
        """``note: still at kernel 6.12: 60 s``, for silence looks like a hang."""
        since, wait = self._next_word.get(step.id, (0.0, 0.0))
        if wait and time.monotonic() - since > wait:
            self._next_word[step.id] = (since, 2 * wait)
            self._line(f"note: still at {step.name}: {wait:.0f} s", "note")

    def said(self, step: Step, text: str) -> None:
        """``pay | #8 [2/3] RUN make``; what speaks needs no word of being still at it."""
        self._next_word.pop(step.id, None)
        self._line(f"{step.name} | {text}", "hit")

    def finished(self, outcome: Outcome) -> None:
        """``[3/12] ran    fetch libc6 2.36-9 … 0.8s``, and the error of what failed."""
        self._over.add(outcome.step.id)
        if self._shows(outcome):
            text = f"[{len(self._over)}/{self._total}] {describe(outcome, explain=self._explain)}"
            self._line(text, outcome.status)

    def note(self, text: str) -> None:
        """``note: …``."""
        self._line(f"note: {text}", "note")

    def end(self, summary: Summary) -> None:
        """``12 steps: 3 ran, 9 hit, 0 failed``."""
        self._line(str(summary), "summary")

    def _shows(self, outcome: Outcome) -> bool:
        match outcome.status:
            case "ran" | "failed" | "skipped":
                return True
            case "hit" | "cancelled" | "unneeded":
                return self._verbose
            case _:
                assert_never(outcome.status)

    def _line(self, text: str, style: str) -> None:  # noqa: ARG002 -- for those with colours
        """Print text whole; ``style`` is a status, ``note`` or ``summary``."""
        self._stream.write(self._safe(text) + "\n")
        self._stream.flush()

    def _safe(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return printable(text).encode(encoding, "backslashreplace").decode(encoding)


class TerminalReporter(PlainReporter):
    """A bar for each running step, below the lines. Rich sees to colours and heeds NO_COLOR."""

    def __init__(self, stream: TextIO, *, verbose: bool = False, explain: bool = False) -> None:
        super().__init__(stream, verbose=verbose, explain=explain)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown: dict[str, float] = {}

    def started(self, step: Step) -> None:
        """A bar appears."""
        if self._bars is None:
            # Not before something runs: a build with nothing to do must not wait for rich.
            self._bars = _bars(self._stream)
            self._bars.start()
        if step.id not in self._tasks:
            name = self._safe(step.name)
            self._tasks[step.id] = self._bars.add_task(name, total=None, amount="")

    def progress(self, step: Step, done: int, total: int | None) -> None:
        """The step's bar moves."""
        task = self._tasks.get(step.id)
        now = time.monotonic()
        if self._bars and task is not None and now - self._shown.get(step.id, 0) > _BETWEEN_UPDATES:
            self._shown[step.id] = now
            amount = size(done) + (f" of {size(total)}" if total is not None else "")
            self._bars.update(task, completed=done, total=total, amount=amount)

    def finished(self, outcome: Outcome) -> None:
        """The bar goes, the line comes."""
        task = self._tasks.pop(outcome.step.id, None)
        if self._bars and task is not None:
            self._bars.remove_task(task)
        super().finished(outcome)

    def end(self, summary: Summary) -> None:
        """All bars go, and the summary stays."""
        if self._bars:
            self._bars.stop()
            self._bars = None
        super().end(summary)

    def _line(self, text: str, style: str) -> None:
        if self._bars is None:
            super()._line(text, style)
            return
        from rich.text import Text

        shown = Text(self._safe(text), style=_STYLES.get(style, ""))
        self._bars.console.print(shown, soft_wrap=True, highlight=False)


def describe(outcome: Outcome, *, explain: bool = False) -> str:
    """How a step ended, in a line; what failed has its error below."""
    text = f"{outcome.status:<6} {outcome.step.name}"
    match outcome.status:
        case "ran" | "failed":
            text += f" … {outcome.seconds:.1f}s"
            if explain and outcome.why:
                text += f": {outcome.why}"
        case "skipped":
            text += f": {outcome.why}"
        case "hit" | "cancelled" | "unneeded":
            pass
        case _:
            assert_never(outcome.status)
    if outcome.error:
        text += "\n" + "\n".join(f"  {line}" for line in outcome.error.render().splitlines())
    return text


def printable(text: str) -> str:
    """Text with control characters, also those that turn the writing around, as escapes.

    Names and messages may come from archives and servers; none may steer a terminal.
    """
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def size(count: int) -> str:
    """``12.3 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        """Bytes done, as text that is never read as markup."""

        def render(self, task: Task) -> Text:
            return Text(str(task.fields["amount"]))

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Amount(),
        TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
