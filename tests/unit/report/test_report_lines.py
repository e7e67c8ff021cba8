"""What is printed: whole lines, nothing that steers a terminal, bars only where they can move."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cagebuild.errors import FetchError
from cagebuild.execute import Outcome, Summary
from cagebuild.report import PlainReporter, TerminalReporter, printable, reporter, size
from tests.support.graphs import step

ROOT = Path(__file__).parents[3]
OUTCOMES = (
    Outcome(step=step("fetch libc6 2.36-9"), status="ran", seconds=0.84, why="not built before"),
    Outcome(step=step("app files"), status="hit"),
    Outcome(step=step("bad"), status="failed", error=FetchError("no luck", hint="try again")),
    Outcome(step=step("image"), status="skipped", why="needs bad"),
    Outcome(step=step("other"), status="cancelled"),
    Outcome(step=step("below"), status="unneeded"),
)
SUMMARY = Summary(outcomes={outcome.step.id: outcome for outcome in OUTCOMES})


def lines(told: PlainReporter, stream: io.StringIO) -> list[str]:
    told.begin(len(OUTCOMES))
    for outcome in OUTCOMES[:-1]:
        told.started(outcome.step)
        told.progress(outcome.step, 1, 2)
        told.finished(outcome)
    told.end(SUMMARY)
    return stream.getvalue().splitlines()


def test_a_line_for_each_step_that_ran_or_could_not() -> None:
    stream = io.StringIO()
    assert lines(PlainReporter(stream), stream) == [
        "[1/6] ran    fetch libc6 2.36-9 … 0.8s",
        "[3/6] failed bad … 0.0s",
        "  no luck",
        "    help: try again",
        "[4/6] skipped image: needs bad",
        "6 steps: 1 ran, 1 hit, 1 failed, 1 skipped, 1 cancelled, 1 not needed",
    ]


def test_hits_and_reasons_when_asked_for() -> None:
    stream = io.StringIO()
    found = lines(PlainReporter(stream, verbose=True, explain=True), stream)
    assert found[:2] == [
        "[1/6] ran    fetch libc6 2.36-9 … 0.8s: not built before",
        "[2/6] hit    app files",
    ]
    assert "[5/6] cancelled other" in found


def test_a_step_that_is_repaired_counts_once() -> None:
    stream = io.StringIO()
    told = PlainReporter(stream)
    told.begin(1)
    for _ in range(2):
        told.finished(OUTCOMES[0])
    assert stream.getvalue().count("[1/1]") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain … ü", "plain … ü"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\tc", r"a\rb\tc"),
        ("two\nlines", "two\nlines"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udcff", r"\udcff"),
        ("\x00\x9b", r"\x00\x9b"),
    ],
)
def test_names_and_messages_cannot_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_stream_that_has_few_letters() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    told = PlainReporter(stream)
    told.begin(1)
    told.finished(Outcome(step=step("größe"), status="ran"))
    stream.seek(0)
    assert stream.read() == "[1/1] ran    gr\\xf6\\xdfe \\u2026 0.0s\n"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_no_bars_where_there_is_no_terminal() -> None:
    assert type(reporter(io.StringIO())) is PlainReporter


PROGRAM = """
import sys
from tests.support.run_graph import main
status = main(sys.argv[1], sys.argv[1] + ".log", "shape=slow", "seconds=0.3")
print("rich" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


def on_terminal(store: Path, **environment: str) -> str:
    """What a build writes to a terminal of its own, with ``\\n`` line ends."""
    own, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, store],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
        stdout=subprocess.DEVNULL,
        stderr=other,
    )
    os.close(other)
    written = b""
    try:
        while chunk := os.read(own, 65536):
            written += chunk
    except OSError:  # the other end is closed
        pass
    os.close(own)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n")


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    text = on_terminal(tmp_path / "store")
    assert "━" in text
    assert "of 100 B" in text
    assert text.endswith("4 steps: 4 ran, 0 hit, 0 failed\nTrue\n")
    assert "\x1b[?25h" in text  # the cursor is back


def test_rich_is_not_loaded_when_nothing_runs(tmp_path: Path) -> None:
    on_terminal(tmp_path / "store")
    text = on_terminal(tmp_path / "store")
    assert text.splitlines()[-2:] == ["4 steps: 0 ran, 1 hit, 0 failed, 3 not needed", "False"]
    assert "\x1b" not in text


def test_no_color_is_heeded(tmp_path: Path) -> None:
    assert "\x1b[3" in on_terminal(tmp_path / "store")
    plain = on_terminal(tmp_path / "other", NO_COLOR="1")
    assert not any(f"\x1b[{code}" in plain for code in ("31m", "32m", "33m", "35m", "9"))


def test_words_in_brackets_are_not_markup() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    told = reporter(stream)
    assert isinstance(told, TerminalReporter)
    told.begin(1)
    named = step("[red]x[/red] [/nothing]")
    told.started(named)
    told.finished(Outcome(step=named, status="ran"))
    told.end(Summary(outcomes={}))
    assert "[red]x[/red] [/nothing] … 0.0s" in stream.getvalue()


def test_a_step_that_reports_after_the_end_is_harmless() -> None:
    """What a thread that nobody waits for may do."""
    stream = io.StringIO()
    told = TerminalReporter(stream)
    named = step("x")
    told.begin(1)
    told.started(named)
    told.end(Summary(outcomes={}))
    told.progress(named, 1, 2)


def test_a_long_step_is_spoken_of_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((1000.0, 1059.0, 1061.0, 1100.0, 1121.0, 1200.0, 1239.0, 1241.0))
    monkeypatch.setattr("cagebuild.report.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    told = PlainReporter(stream)
    told.begin(1)
    told.started(OUTCOMES[0].step)
    for _ in range(7):
        told.progress(OUTCOMES[0].step, 1, None)
    name = OUTCOMES[0].step.name
    assert stream.getvalue().splitlines() == [
        f"note: still at {name}: {seconds} s" for seconds in (60, 120, 240)
    ]
